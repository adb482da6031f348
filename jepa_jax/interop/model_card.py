"""The README that lies beside exported weights: what they are, how they came about, how to use."""

import json
from typing import Any

from jepa_jax.pretrained import Pretrained
from jepa_jax.training.changes import differing, stored_config

WHICH = {
    "target": "the **target encoder**, the moving average that I-JEPA is evaluated with",
    "context": "the **context encoder**, which was trained by gradient descent",
    "": "an encoder; the file that it was read from does not tell which",
}
PRIVATE = ("data.path", "data.mixture")  # where the images lay is nobody's business


def model_card(pretrained: Pretrained) -> str:
    backbone, view, about = pretrained.backbone, pretrained.view, pretrained.about
    encoder = backbone.encoder
    height, width = view.size
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: image-feature-extraction",
        "tags:",
        "- ijepa",
        "- jepa_jax",
        "---",
        "# I-JEPA encoder",
        "",
        f"These weights are {WHICH[pretrained.part]}. They were exported with jepa_jax from"
        f" {about.get('source', 'memory')}"
        + (f", step {about['step']}." if "step" in about else "."),
        "",
        "| | |",
        "|---|---|",
        f"| images: height, width, channels | {height}, {width}, {view.channels} |",
        f"| patches | {encoder.patch_size}×{encoder.patch_size} pixels |",
        f"| width, depth, heads | {encoder.width}, {encoder.depth}, {encoder.heads} |",
        f"| mean of the pixels (0..1) | {', '.join(map(str, backbone.mean))} |",
        f"| standard deviation | {', '.join(map(str, backbone.std))} |",
        "",
        "There is no class token: average the patches' features.",
        "",
        "```python",
        "from transformers import AutoImageProcessor, AutoModel",
        "",
        'processor = AutoImageProcessor.from_pretrained("FOLDER")',
        'model = AutoModel.from_pretrained("FOLDER")',
        'features = model(**processor(image, return_tensors="pt")).last_hidden_state.mean(1)',
        "```",
        "",
        "```python",
        "import jepa_jax",
        "",
        'model = jepa_jax.load("FOLDER")',
        "features = model.features(images)  # uint8, (images, height, width, channels)",
        "```",
    ]
    if config := about.get("config"):
        lines += ["", "## Recipe", "", "What differs from jepa_jax's defaults:", "", "```"]
        own = differing(stored_config(config))
        lines += [f"{key} = {json.dumps(own[key])}" for key in own if key not in PRIVATE]
        lines.append("```")
    if results := about.get("results"):
        lines += ["", "## Results", "", *_results(results)]
    return "\n".join(lines) + "\n"


def _results(results: dict[str, Any]) -> list[str]:
    accuracy = results.get("accuracy") or {}
    columns = list(dict.fromkeys(name for scores in accuracy.values() for name in scores))
    if not columns:
        return ["The run had no held-out images to be probed with."]
    return [
        f"Accuracy on held-out images (%), after step {results['step']}:",
        "",
        f"| features | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
        *(
            f"| {name} | {' | '.join(f'{100 * scores[column]:.1f}' for column in columns)} |"
            for name, scores in accuracy.items()
        ),
    ]
