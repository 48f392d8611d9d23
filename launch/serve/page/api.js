// Requests to the server, and elements made of text. Nothing is ever parsed as HTML: text from outside stays text.

/** An element with attributes, listeners (onclick: ..) and children, strings among them. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const find = (selector, root = document) => root.querySelector(selector);
export const all = (selector, root = document) => [...root.querySelectorAll(selector)];

/** Show a sentence at the top of the page; an empty one hides it. */
export function say(sentence = "") {
  const place = find("#message");
  place.textContent = sentence;
  place.hidden = !sentence;
  if (sentence) place.scrollIntoView({block: "nearest"});
}

/** The json of an answer; an Error with the server's sentence where it is none. */
export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer; is it running?");
  }
  if (answer.status === 204) return null;
  const data = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(data.error || `the server answered ${answer.status}`);
  return data;
}

export const send = (path, body) =>
  ask(path, {method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify(body)});

/** An event listener whose errors are shown. */
export const guarded = action => async event => {
  say();
  try {
    await action(event);
  } catch (error) {
    say(error.message);
  }
};

export const at = (run, what, parameters = {}) => `/api/runs/${encodeURIComponent(run)}/${what}?${new URLSearchParams(parameters)}`;

export const clock = seconds => {
  const whole = Math.max(1, Math.ceil(seconds));
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
};
