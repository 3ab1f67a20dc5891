"""The figures that show one model: its curves, its confusions, its turned kernels; and the picture of the README."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..groups import group
from ..results import Run, Study
from .figures import draw_accuracy_by_angle, log_ticks, runs_by_label, shorten
from .svg import INK, LOOKS, Plot, canvas, drawn, finish, look, visible
from .tables import Table, grid
from .words import human, number, plural

Limits = tuple[float, float]
Kernels = tuple[tuple[tuple[tuple[float, ...], ...], ...], ...]


def loss_limits(runs: list[Run] | tuple[Run, ...]) -> Limits:
    """One range for the losses of every model, so that their curves can be compared."""
    values = [
        value
        for run in runs
        for row in run.fit.history
        for key in ("train_loss", "val_loss")
        if (value := row.get(key)) is not None
    ]
    values += [run.evaluation.prior_entropy for run in runs]
    low, high = min(values, default=0.0), max(values, default=1.0)
    return max(low, 1e-6), max(high, 2e-6)


@drawn
def curves(label: str, runs: list[Run], limits: Limits) -> Plot:
    """Training and validation loss above, validation AUC (accuracy where there is none) below, one line a seed."""
    figure = Figure(figsize=(5, 4.7), layout="constrained")
    losses, scores = figure.subplots(2, 1, sharex=True, height_ratios=(1.5, 1))
    train, validation = LOOKS[0], LOOKS[1]
    has_auc = any(row.get("val_auc") is not None for run in runs for row in run.fit.history)
    score = "val_auc" if has_auc else "val_accuracy"
    for run in runs:
        for ax, key, style in (
            (losses, "train_loss", train),
            (losses, "val_loss", validation),
            (scores, score, validation),
        ):
            _curve(ax, run, key, style)
    prior = runs[0].evaluation.prior_entropy
    losses.axhline(prior, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
    _loss_axis(losses, limits, prior)
    scores.set(xlabel="epoch", ylabel="AUC" if has_auc else "accuracy")
    scores.xaxis.get_major_locator().set_params(integer=True)
    scores.grid()
    handles = [
        Line2D([], [], color=train.color, linestyle=train.line, label="training"),
        Line2D([], [], color=validation.color, linestyle=validation.line, label="validation"),
        Line2D([], [], color=validation.color, marker="s", linestyle="", label="best"),
        Line2D([], [], color=INK, linewidth=0.9, linestyle=(0, (1, 2)), label="prior entropy"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, columnspacing=1, handlelength=1.7)
    rows = [
        (str(run.seed), *(_history_cell(row, k) for k in ("epoch", "train_loss", "val_loss", score)))
        for run in runs
        for row in run.fit.history
    ]
    return finish(
        figure,
        f"Training of {label}",
        f"{plural(len(runs), 'seed')}. A loss that stays at the prior entropy has learnt nothing but how frequent the "
        "classes are. The marker is the epoch whose weights are kept.",
        grid(f"Training of {label}", ("seed", "epoch", "training loss", "validation loss", score[4:].upper()), rows),
    )


def _history_cell(row: dict[str, float | None], key: str) -> str:
    return number(row.get(key), 0 if key == "epoch" else 3)


def _curve(ax: Axes, run: Run, key: str, style) -> None:  # type: ignore[no-untyped-def]
    points = [(row.get("epoch"), value) for row in run.fit.history if (value := row.get(key)) is not None]
    if not points:
        return
    alone = "o" if len(points) == 1 else ""
    ax.plot(*zip(*points, strict=True), color=style.color, linestyle=style.line, linewidth=1.3, marker=alone)
    best = [(x, y) for x, y in points if x == run.fit.best_epoch]
    if best and key != "train_loss":
        ax.plot(*zip(*best, strict=True), color=style.color, marker=style.marker, linestyle="")


def _loss_axis(ax: Axes, limits: Limits, prior: float) -> None:
    """Logarithmic where a loss is far above the prior entropy, else the rest would be a flat line."""
    low, high = limits
    ax.set_ylabel("loss (nats)")
    ax.grid()
    if high <= 4 * max(prior, 0.1):
        ax.set_ylim(max(0.0, low - 0.06 * (high - low)), high + 0.06 * (high - low))
        return
    ax.set_yscale("log")
    ax.set_ylim(low / 1.1, high * 1.1)
    ticks = log_ticks(low, high)
    ticks = ticks[:: 1 + len(ticks) // 7]
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()


@drawn
def confusion(label: str, runs: list[Run]) -> Plot:
    """Counts of all seeds together; the shade is the share of the row, that is of the truth."""
    counts = np.sum([run.evaluation.confusion for run in runs], axis=0)
    names = [shorten(visible(c), 14) for c in runs[0].evaluation.classes]
    k = len(names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    maps = runs[0].evaluation.images is not None  # whose pixels are many
    figure, ax = canvas(360 if k > 3 else 300, 80 + min(60 * k, 340))
    for i in range(k):
        for j in range(k):
            ax.fill_between(
                [j - 0.48, j + 0.48], i - 0.48, i + 0.48, color=look(0).color, alpha=0.5 * shares[i, j], lw=0
            )
            count = human(float(counts[i, j])) if maps else f"{counts[i, j]:,}"
            text = f"{count}\n{100 * shares[i, j]:.0f} %" if k <= 4 else f"{100 * shares[i, j]:.0f}"
            ax.text(j, i, text, ha="center", va="center", fontsize=10 if k <= 6 else 8, linespacing=1.3)
    ax.set(xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5))
    ax.set_xticks(range(k), names)
    if k > 3:
        ax.tick_params(axis="x", rotation=40, rotation_mode="xtick")
    ax.set_yticks(range(k), names)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel("predicted")
    ax.set_ylabel("truth")
    classes = runs[0].evaluation.classes
    rows = [(c, *(f"{n:,}" for n in line)) for c, line in zip(classes, counts.tolist(), strict=True)]
    unit = ("" if k <= 4 else " in per cent of each row") + (", in pixels" if maps else "")
    return finish(
        figure,
        f"Confusions of {label}",
        f"Rows are the truth, columns the answer{unit}; {plural(len(runs), 'seed')} together.",
        Table(f"Confusions of {label} (rows: truth)", ("truth", *classes), tuple(rows)),
    )


@drawn
def kernels(label: str, run: Run) -> Plot | None:
    """The first layer's filters at every group element. None for a network without such filters."""
    if not run.kernels or len(run.kernels[0]) < 2:
        return None
    features, order = len(run.kernels), len(run.kernels[0])
    figure, ax = canvas(max(360.0, 30.0 * order + 40), 50 + features * max(30, 320 / order))
    draw_kernels(ax, run.kernels, run.group)
    rows = [(f"feature {i + 1}", *(number(float(np.linalg.norm(k)), 3) for k in f)) for i, f in enumerate(run.kernels)]
    return finish(
        figure,
        f"Turned kernels of {label}",
        f"The first {features} filters of the first layer (seed {run.seed}): one row a filter, one column a group "
        "element. Red is positive, blue negative.",
        Table(f"Norm of each kernel of {label}", ("filter", *element_names(run.group, order)), tuple(rows)),
    )


def element_names(name: str | None, order: int) -> list[str]:
    """The turn of each column; a mirrored one has an m."""
    g = group(name or "Z2")
    if g.order != order:
        return [str(i) for i in range(order)]
    return [f"{'m ' if g.is_mirror(e) else ''}{g.angle(e):g}°" for e in range(order)]


def draw_kernels(ax: Axes, values: Kernels, name: str | None) -> None:
    """One image of all kernels with gaps, enlarged without smoothing."""
    stack = np.asarray(values, dtype=float)  # (features, |G|, k, k)
    features, order, k, _ = stack.shape
    scale = np.abs(stack).max(axis=(1, 2, 3), keepdims=True)
    colours = colormaps["RdBu_r"](0.5 + 0.5 * stack / np.where(scale > 0, scale, 1))
    tiles = np.zeros((features, order, k + 1, k + 1, 4))
    tiles[:, :, :k, :k] = colours
    sheet = tiles.transpose(0, 2, 1, 3, 4).reshape(features * (k + 1), order * (k + 1), 4)
    sheet = np.kron((255 * sheet).round().astype(np.uint8), np.ones((8, 8, 1), np.uint8))
    ax.imshow(sheet, interpolation="none", extent=(0, order, features, 0))
    centre = 0.5 * k / (k + 1)
    ax.set_xticks([i + centre for i in range(order)], element_names(name, order), fontsize=9)
    if order > 8 or (name and name.startswith("D")):
        ax.tick_params(axis="x", rotation=45 if order <= 16 else 90)
    ax.set_yticks([])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


@drawn
def overview_figure(study: Study) -> Figure:
    """1000 x 400 pixels at 100 dpi: accuracy against angle of an equivariant and a plain network, and turned kernels.

    Of each kind the first network that did not collapse is shown. Save it with `figure.savefig(path)`.
    """
    models = runs_by_label(study)
    good = [s for s in study.summaries if not s.collapsed and s.label in models]
    chosen = [next((s.label for s in good if (s.group is not None) is wanted), None) for wanted in (True, False)]
    figure = Figure(figsize=(10, 4), dpi=100, layout="constrained")
    polar, sheet = figure.add_subplot(1, 5, (1, 2), projection="polar"), figure.add_subplot(1, 5, (3, 5))
    audits = {label: [r.audit for r in models[label]] for label in chosen if label}
    draw_accuracy_by_angle(polar, audits, study.runs[0].evaluation.majority_rate if study.runs else None)
    polar.set_title("Accuracy when the picture is turned", fontsize=11, pad=14)
    handles = [
        Line2D([], [], color=look(i).color, linestyle=look(i).line, marker=look(i).marker, label=visible(label))
        for i, label in enumerate(audits)
    ]
    handles.append(Line2D([], [], color=INK, linestyle=(0, (4, 3)), linewidth=1, label="majority rate"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    run = models[chosen[0]][0] if chosen[0] else None
    if run is not None and run.kernels:
        draw_kernels(sheet, run.kernels, run.group)
        sheet.set_title(f"Filters of {run.label}, learnt once and turned", fontsize=11)
    else:
        sheet.set_axis_off()
    return figure
