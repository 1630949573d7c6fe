"""A run's neurons: chosen from what was recorded, listed, written as files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatescope.cli.common import (
    AsJson,
    AttentionRate,
    ExcludeRate,
    MlpRate,
    Rate,
    Rho,
    ZScore,
    app,
    as_json,
    check_culnig,
    check_rho,
    given,
    selections_of,
)
from gatescope.core.errors import GatescopeError, one_of
from gatescope.core.filenames import LONGEST, distinct

if TYPE_CHECKING:  # for the command line's help, which loads no torch
    from gatescope.core.attributions import Attributions
    from gatescope.core.counters import Counters
    from gatescope.core.neurons import NeuronSet
    from gatescope.select.selection import Selection
    from gatescope.steps.run import Run


@app.command()
def select(
    run: Annotated[Path, typer.Argument(help="A run with a recording or attributions.")],
    selector: Annotated[
        list[str] | None,
        typer.Option(help="RND, LAP, LAPE, MAD, CAS (counters), ATT, CULNIG (attributions); may be given again. CAS if not."),
    ] = None,
    rate: Rate = None,
    rho: Rho = None,
    mlp_rate: MlpRate = None,
    attention_rate: AttentionRate = None,
    exclude_rate: ExcludeRate = None,
    z: ZScore = None,
    json: AsJson = False,
) -> None:
    """Choose neurons for each group from a run's counters or attributions, and keep them in it.

    CULNIG takes the run's attributions of culture, control and, if there, reading, at the paper's rates unless given.

    Example: gatescope select runs/cvqa --selector CAS --selector MAD --rate 0.01
    """
    from gatescope.steps.run import Run
    from gatescope.studies.vlm import SELECTORS

    opened = Run.open(run)
    names = [one_of("selector", name.upper(), (*SELECTORS, "CULNIG")) for name in selector or ["CAS"]]
    rates = given(mlp_rate=mlp_rate, attention_rate=attention_rate, exclude_rate=exclude_rate, z=z)
    check_rho(rho, names)
    recorded = Recorded(opened)
    _check_rates(recorded, rates, "CULNIG" in names)
    chosen = [selection for name in names for selection in _selections(recorded, name, rate, rho, rates)]
    opened.add_selections(chosen)
    typer.echo(as_json(_counts(chosen)) if json else "\n\n".join(selection.report() for selection in chosen))


class Recorded:
    """What selectors choose from, read when the first of them needs it: adding up a run's shards may take minutes."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @cached_property
    def counters(self) -> Counters:
        """Of the groups that can be ranked: those with a counted token."""
        return self.run.counters.with_tokens()

    @cached_property
    def attributions(self) -> dict[str, Attributions]:
        """By name."""
        return self.run.attributions


def _check_rates(recorded: Recorded, rates: Mapping[str, float], culnig: bool) -> None:
    # Attributions are read from disk only if they matter.
    reads = "exclude_rate" in rates and "reading" in recorded.attributions
    check_culnig(rates, culnig, reads, "attribute a reading set with --name reading" if culnig else "add --selector CULNIG")


def _counts(chosen: Sequence[Selection]) -> dict[str, Any]:
    """How many neurons were chosen and are lacking, to be written as JSON."""
    counts = {selection.method: {group: len(neurons) for group, neurons in selection.items()} for selection in chosen}
    return {"neurons": counts, "shortfall": {selection.method: selection.shortfall for selection in chosen}}


def _selections(
    recorded: Recorded, name: str, rate: float | None, rho: float | None, rates: Mapping[str, float]
) -> Sequence[Selection]:
    """What one selector chooses; CULNIG is several."""
    from gatescope.select import att
    from gatescope.studies.culnig import choose
    from gatescope.studies.vlm import COUNTED

    share = 0.01 if rate is None else rate
    if name in COUNTED:
        options = {"rho": rho} if name == "LAPE" else {}
        return [COUNTED[name](recorded.counters, share, **options)]
    if name == "ATT":
        return [att(_attributions(recorded, ""), share)]
    scores, control = _attributions(recorded, "culture"), _attributions(recorded, "control")
    by_name = choose(scores, control, recorded.attributions.get("reading"), **rates, **given(rate=rate))
    return list(by_name.values())


def _attributions(recorded: Recorded, name: str) -> Attributions:
    attributions, run = recorded.attributions, recorded.run
    if not name and len(attributions) == 1:
        return next(iter(attributions.values()))
    if name not in attributions:
        which = f"of {name!r}" if name else "without a name"
        raise GatescopeError(
            f"{run.path} has no attributions {which}; it has {', '.join(map(repr, attributions)) or 'none'}. Make them with "
            f"`gatescope attribute --run {run.path}{f' --name {name}' if name else ''}`."
        )
    return attributions[name]


@app.command()
def neurons(
    run: Annotated[Path, typer.Argument(help="A run with selections.")],
    out: Annotated[
        Path | None, typer.Option(help="Directory for SELECTOR.GROUP.safetensors; nothing is written without.")
    ] = None,
    selector: Annotated[list[str] | None, typer.Option(help="Only this one's; may be given again.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Only this group's; may be given again.")] = None,
    json: AsJson = False,
) -> None:
    """List the neurons a run holds (--json gives all of them), or write them as files for `bake`, `lm-eval`, `NeuronSet.load`.

    Example: gatescope neurons runs/mine --selector CAS --out masks
    """
    rows: list[dict[str, Any]] = []
    labels: dict[tuple[str, str], str] = {}
    for name, group_name, chosen in _chosen(selections_of(run), selector, group):
        file = None
        if out is not None:
            labels[name, group_name] = _label(name, group_name, labels)
            file = out / f"{labels[name, group_name]}.safetensors"
            chosen.save(file)
        rows.append({"selector": name, "group": group_name, "file": file, "neurons": list(chosen)})
    if json:
        typer.echo(as_json(rows))
        return
    for row in rows:
        typer.echo(_summary(row))


def _summary(row: Mapping[str, Any]) -> str:
    """A set in a line, with its best neurons."""
    first = ", ".join(f"{site} {layer}.{index}" for site, layer, index in row["neurons"][:5])
    ellipsis = ", ..." if len(row["neurons"]) > 5 else ""
    return f"{row['file'] or row['selector']}: {row['group']}, {len(row['neurons'])} neurons: {first}{ellipsis}"


def _chosen(
    selections: Mapping[str, Selection], selectors: Sequence[str] | None, groups: Sequence[str] | None
) -> Iterator[tuple[str, str, NeuronSet]]:
    """Selector, group and neurons of what was asked for; all if nothing was."""
    names = [one_of("selector", name, tuple(selections)) for name in selectors or selections]
    # Not every selector has every group: CULNIG-general has one set for all.
    known = tuple(dict.fromkeys(group for name in names for group in selections[name]))
    chosen_groups = [one_of("group", group, known) for group in groups or known]
    for name in selections:
        if name in names:
            yield from ((name, group, neurons) for group, neurons in selections[name].items() if group in chosen_groups)


def _label(selector: str, group: str, before: Mapping[tuple[str, str], str]) -> str:
    """What the file of a set is called, before its ending, where those of others, by selector and group, have their labels."""
    from gatescope.core.answers import ALL

    # A point divides the two, so the selector is written without one.
    names = {other: label.partition(".")[0] for (other, _), label in before.items()}
    name = names.get(selector) or distinct(selector, names.values(), but=".", longest=LONGEST // 2)
    # A set for all groups needs no group in its name.
    if group == ALL:
        return name
    groups = [label.partition(".")[2] for (other, _), label in before.items() if other == selector]
    return f"{name}.{distinct(group, groups, longest=LONGEST // 2)}"
