"""Small random models as the registry port of the published models saves them, with what they compute.

    python -m venv V; V/bin/pip install transformers==4.46.3 torch; V/bin/python tests/golden/port/make.py

Two folders: lyrics_1b (one file of torch.save, characters before the codes) and lyrics_5b (safetensors in shards, a lyric
encoder), each with a codec of three levels, a top prior and two upsamplers; expected.safetensors holds inputs, codes and
logits.
"""

import os
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"
import torch
import transformers
from safetensors.torch import save_file
from transformers import JukeboxConfig, JukeboxModel, JukeboxPriorConfig, JukeboxVQVAEConfig

WIDTH, CODES, CTX, LETTERS = 8, 16, 32, 16
CODEC = dict(
    levels=3, multipliers=[2, 1, 1], res_conv_width=4, res_conv_depth=1, embed_dim=4, nb_discrete_codes=CODES,
    res_downs_t=[3, 2, 2], res_strides_t=[2, 2, 2], res_dilation_growth_rate=3, sample_length=4096,
)  # fmt: skip
SHARED = dict(
    hidden_size=WIDTH, n_heads=1, blocks=4, n_ctx=CTX, mask=True, metadata_conditioning=True, metadata_dims=[5, 7],
    attention_multiplier=0.5, music_vocab_size=CODES, res_conv_depth=3, res_conv_width=4, res_dilation_growth_rate=3,
    res_dilation_cycle=2, init_scale=1.0, timing_dims=8, max_duration=600,
)  # fmt: skip
UP = SHARED | dict(
    num_layers=3, attention_pattern="raw_column_previous_row_attention", is_encoder_decoder=False, merged_decoder=False,
    nb_relevant_lyric_tokens=0, max_nb_genres=2, min_duration=0,
)  # fmt: skip
TOPS = {
    "lyrics_1b": SHARED | dict(
        level=0, attention_pattern="enc_dec_with_lyrics", num_layers=16, n_heads=2, is_encoder_decoder=True,
        merged_decoder=False, nb_relevant_lyric_tokens=LETTERS, lyric_vocab_size=79, max_nb_genres=1, min_duration=17.84,
    ),
    "lyrics_5b": SHARED | dict(
        level=0, attention_pattern="large_separated_enc_dec_w_lyrics", num_layers=19, n_heads=2, merged_decoder=True,
        is_encoder_decoder=False, nb_relevant_lyric_tokens=LETTERS, lyric_vocab_size=80, max_nb_genres=2,
        min_duration=23.8, encoder_config=UP | dict(hidden_size=8, n_heads=2, n_ctx=LETTERS, lyric_vocab_size=80),
    ),
}  # fmt: skip

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)
for kind, top in TOPS.items():
    torch.manual_seed(0)
    priors = [top, UP | dict(level=1, conv_res_scale=True), UP | dict(level=2, conv_res_scale=False)]
    config = JukeboxConfig(
        vqvae_config=JukeboxVQVAEConfig(**CODEC).to_dict(),
        prior_config_list=[JukeboxPriorConfig(**p).to_dict() for p in priors],
        min_duration=top["min_duration"], max_duration=600, timing_dims=8, metadata_conditioning=True,
    )  # fmt: skip
    model = JukeboxModel(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p + torch.randn_like(p) * 0.1 if p.ndim == 1 else torch.randn_like(p) * 0.3)
        for book in model.vqvae.bottleneck.level_blocks:
            book.codebook.normal_()
        audio = torch.randn(1, 4096, 1) * 0.3
        codes = model.vqvae.encode(audio)
        expected = {"audio": audio} | {f"codes_{level}": c for level, c in enumerate(codes)}
        for i, prior in enumerate(model.priors):  # 0 is the top
            level, genres, lyric_tokens = 2 - i, prior.config.max_nb_genres, prior.nb_relevant_lyric_tokens
            bag = torch.tensor([[3] + [-1] * (genres - 1)])
            y = torch.cat([torch.tensor([[44100 * 100, 44100 * 10, CTX * (8, 32, 128)[level], 4]]), bag], 1)
            y = torch.cat([y, torch.randint(1, 79, (1, lyric_tokens))], 1)
            if not lyric_tokens:
                prior.get_encoder_loss = lambda encoded, y: torch.zeros(())
            made = torch.randint(0, CODES, (1, CTX))
            conds = [torch.randint(0, CODES, (1, CTX // 4))] if i else None
            _, seen = prior.forward_tokens(made, conds, y, get_preds=True)
            expected |= {f"z_{level}": made, f"y_{level}": y, f"logits_{level}": seen["preds"]}
            if conds:
                expected[f"above_{level}"] = conds[0]
    folder = Path(__file__).parent / kind
    if kind == "lyrics_1b":
        model.save_pretrained(folder, safe_serialization=False)
    else:
        for prior in list(model.priors)[1:]:  # safetensors refuses a table with two names
            del prior.prior.fc_proj_out
        model.save_pretrained(folder, safe_serialization=True, max_shard_size="60KB")
    save_file({n: t.contiguous() for n, t in expected.items()}, folder / "expected.safetensors")
    Path(folder / "generation_config.json").unlink(missing_ok=True)
    print(kind, sum(f.stat().st_size for f in folder.iterdir()), "bytes")
