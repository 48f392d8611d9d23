// The API as /api/openapi.json describes it: every path with its parameters, and every request with its fields.
import {ask, find, h, say} from "./api.js";

const name = schema => schema?.$ref?.split("/").pop() || schema?.type || [...(schema?.anyOf || [])].map(name).join(" or ") || "";

function section(title, about, rows) {
  const lines = rows.map(row => h("tr", {}, h("th", {scope: "row"}, row[0]), ...row.slice(1).map(cell => h("td", {}, cell))));
  return h("section", {}, h("h2", {}, title), h("p", {class: "soft"}, about), h("table", {}, h("tbody", {}, ...lines)));
}

try {
  const api = await ask("/api/openapi.json"), parts = [];
  for (const [path, verbs] of Object.entries(api.paths))
    for (const [verb, its] of Object.entries(verbs))
      parts.push(section(`${verb.toUpperCase()} ${path}`, its.description || "", (its.parameters || []).map(p =>
        [p.name, p.in, p.schema.enum?.join(", ") || name(p.schema)])));
  for (const [title, schema] of Object.entries(api.components.schemas))
    parts.push(section(title, schema.description || "", Object.entries(schema.properties || {}).map(([field, value]) =>
      [field, value.const || name(value), value.default === undefined ? "" : `default ${JSON.stringify(value.default)}`])));
  find("#paths").append(...parts);
} catch (error) {
  say(error.message);
}
