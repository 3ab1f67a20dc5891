"""What happens inside: layers and derivatives; and the facts of the model and the images, in words."""

from typing import Any

from .looking import Asker
from .pictures import Pictures
from .rows import spread_out
from .turning import Turning

FEW = 16  # images


def measure_details(asker: Asker, turning: Turning, pictures: Pictures, variation: float) -> dict[str, Any]:
    """`layers` and `lie` of AuditResult. variation: of the output between images, 0 if it is degenerate."""
    from .layers import layer_errors
    from .lie import lie_errors

    patches, _ = pictures.load(spread_out(len(pictures), FEW))
    if not variation or len(patches) < 4 or turning.crop[0] != turning.crop[1]:
        return {}
    found: dict[str, Any] = {}
    module = asker.subject.module
    upright = turning.upright(patches)
    if module is not None:
        x = upright if asker.normalize is None else asker.normalize(upright)
        try:
            found["layers"] = layer_errors(module, x)
        except (AssertionError, AttributeError, RuntimeError) as error:  # hooks that a scripted module does not have
            words = (str(error).splitlines() or [""])[0]
            found["facts"] = {"layers": f"not measured ({type(error).__name__}: {words})"}
    found["lie"] = lie_errors(asker, patches, turning, variation)
    return found


def input_facts(subject: Any, asker: Asker, pictures: Pictures) -> dict[str, str]:
    normalize = asker.normalize
    scale = "taken as they are: the pictures are what the model takes"
    if normalize is not None:
        mean, std = (", ".join(f"{v:.4g}" for v in values) for values in (normalize.mean, normalize.std))
        scale = f"(pixel - {mean}) / {std}"
    return {
        "pictures": f"{pictures.source}: {len(pictures):,}, {pictures.method}",
        "input": scale,
        "answer": f"{asker.kind}" + (", probabilities (their logarithm is judged)" if asker.logarithm else ""),
        "device": str(subject.device),
        **({"notes": "; ".join(subject.notes)} if subject.notes else {}),
    }
