"""How long a sweep of M masks takes: one at a time or side by side, and with the images' features shared.

    naive          every mask alone: texts and images encoded again, the images' features computed again
    one at a time  `gs.sweep(..., masks_per_batch=1)`: encoded once, the features shared
    side by side   `gs.sweep(...)`: masks in different rows of one batch, as many as fit

Every sweep also runs the unmodified model, so M masks give M + 1 answers per example. It is checked that all three give the
same answers. The models have random weights, so every answer has the greatest length allowed:

    toy        Qwen2.5-VL of the organism's shape (3 layers of 300 neurons): short answers to small images, short answers
               to large images, and few long answers, that is, decoding one row at a time
    7b         Qwen2.5-VL-7B with its vision tower, 448 x 448 pixels
    1b, 12b    the text decoders, without images
"""

from __future__ import annotations

import random

import common
import shapes
import torch
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

import gatescope as gs
from gatescope.data import Example
from gatescope.interventions.apply import masks_of
from gatescope.models.identity import identity
from gatescope.models.sites import site_of
from gatescope.organism import build, world
from gatescope.traces.batch import run_batch
from gatescope.traces.encoding import collate

SMALL = {"examples": 8, "pixels": 56, "new": 4}
TOY = {"small pictures": SMALL, "large pictures": SMALL | {"pixels": 280}, "long answers": SMALL | {"examples": 2, "new": 20}}
PRESETS = {
    "toy": {
        "shapes": TOY,
        "masks": (1, 2, 5, 10, 25),
        "rounds": 3,
    },
    "1b": {"shapes": {"text": {"examples": 8, "tokens": 150, "new": 20}}, "masks": (1, 5, 25), "rounds": 3},
    "7b": {"shapes": {"pictures": {"examples": 8, "pixels": 448, "new": 20}}, "masks": (1, 5, 25), "rounds": 3},
    "12b": {"shapes": {"text": {"examples": 8, "tokens": 150, "new": 20}}, "masks": (1, 5, 25), "rounds": 3},
}  # fmt: skip
RATE = 0.01
HEADINGS = ["M", "naive, ms", "one at a time, ms", "side by side, ms"]
HEADINGS += ["speed-up over one at a time", "quartiles", "speed-up over naive", "quartiles"]


def main() -> None:
    chosen = common.options(__doc__, PRESETS)
    preset = PRESETS[chosen.preset]
    print(f"preset {chosen.preset}: masks of {RATE:.0%} of the neurons")
    print(f"{common.machine(chosen.device)}, torch {torch.__version__}")
    figures = {name: measure(chosen.preset, name, shape, preset, chosen.device) for name, shape in preset["shapes"].items()}
    common.write(chosen.json, {"preset": chosen.preset, "machine": common.machine(chosen.device), "shapes": figures})


def measure(preset: str, name: str, shape: dict, how: dict, device: str) -> dict:
    """Print one shape's table; return its results by number of masks."""
    pictured = "pixels" in shape
    model = seeing(preset, device, shape["pixels"]) if pictured else shapes.decoder(preset, device)
    examples = pictures(shape) if pictured else shapes.questions(shape["examples"], shape["tokens"])
    every = masks(model, max(how["masks"]))
    results, rows = {}, []
    for count in how["masks"]:
        figures = compare(model, examples, dict(list(every.items())[:count]), shape["new"], how["rounds"], device)
        results[count] = figures
        times = [f"{1000 * figures['seconds'][way]['median']:.0f}" for way in ("naive", "one at a time", "side by side")]
        cells = []
        for way in ("one at a time", "naive"):
            ratio = figures["faster than"][way]
            cells += [f"{ratio['median']:.2f}", f"{ratio['low']:.2f} .. {ratio['high']:.2f}"]
        rows.append([str(count), *times, *cells])
    print(f"\n{name}: {shape}; the speed-ups are those of side by side")
    print(common.table(HEADINGS, rows))
    return results


def compare(model, examples: list, masks: dict, new: int, rounds: int, device: str) -> dict:
    """Seconds of the three ways, and the speed-up of side by side over the others."""
    settings = {"batch_size": len(examples), "max_new_tokens": new, "progress": False}
    answers: dict[str, list] = {}

    def naive():
        texts = []
        for mask in (None, *masks.values()):
            batch = collate(model, examples).to(model._module.device)
            answered, _ = run_batch(model, batch, masks=masks_of(model, [mask]), max_new_tokens=new)
            texts += [text for text, _ in answered]
        answers["naive"] = texts

    def sweep(way: str, masks_per_batch: int | None):
        rows = gs.sweep(model, examples, masks, masks_per_batch=masks_per_batch, **settings)
        answers[way] = [row.text for row in rows.rows]

    ways = {
        "naive": naive,
        "one at a time": lambda: sweep("one at a time", 1),
        "side by side": lambda: sweep("side by side", None),
    }
    seconds = common.timed(ways, rounds, device, warmup=1)
    if not answers["naive"] == answers["one at a time"] == answers["side by side"]:
        print("  the answers differ (rounding: another batch is another order of sums)")
    fast = seconds["side by side"]
    faster = {
        way: common.spread([x / y for x, y in zip(seconds[way], fast, strict=True)]) for way in ("naive", "one at a time")
    }
    return {"seconds": {way: common.spread(spent) for way, spent in seconds.items()}, "faster than": faster}


def seeing(preset: str, device: str, pixels: int):
    """A Qwen2.5-VL with random weights and a real processor."""
    processor = build.processor((fact.word for fact in world.facts()), max_pixels=pixels**2)
    if preset == "toy":
        module = build.model(processor.tokenizer, layers=3, width=300, hidden=64, seed=0).eval().to(device)
        return gs.load_model(module, processor=processor)
    ids = {marker: processor.tokenizer.get_vocab()[marker] for marker in build.MARKERS}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 4096,
            "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [16, 24, 24]},
            "pad_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "bos_token_id": None,
        },
        vision_config={
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    return gs.load_model(shapes.built(AutoModelForImageTextToText, config, device), processor=processor)


def pictures(shape: dict) -> list[Example]:
    """Questions about drawn images of one size."""
    draw, facts = random.Random(0), world.facts()
    examples = []
    for number in range(shape["examples"]):
        fact = facts[(number * 17) % len(facts)]
        choices, _ = world.options(fact, facts, draw)
        picture = world.draw(fact, draw, (shape["pixels"], shape["pixels"]))
        examples.append(Example(f"e{number}", fact.culture, world.question(fact.kind), tuple(choices), fact.word, picture))
    return examples


def masks(model, count: int) -> dict:
    """Random masks, each of other neurons, by an invented group."""
    layout = site_of(model, "gate").layout
    draw = torch.Generator().manual_seed(0)
    size = max(1, int(RATE * layout.size))
    drawn = [torch.randperm(layout.size, generator=draw)[:size].sort().values for _ in range(count)]
    return {f"m{i}": gs.ablate(gs.NeuronSet(layout, neurons, identity(model))) for i, neurons in enumerate(drawn)}


if __name__ == "__main__":
    main()
