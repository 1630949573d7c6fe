"""What the doctor found, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gatescope.models.sites import Site


@dataclass(frozen=True)
class Finding:
    """One check of one site: what was compared, whether it held, by how much it was off, and on which inputs."""

    site: str
    check: str
    holds: bool
    detail: str
    inputs: str = "text"


@dataclass(frozen=True)
class Report:
    """Everything the doctor found; prints as a table of the sites and one of the checks for each kind of inputs."""

    model: str
    sites: dict[str, Site]
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether every check of every site held."""
        return all(finding.holds for finding in self.findings)

    def __str__(self) -> str:
        lines = [f"model  {self.model}", "", f"{'site':10}{'layers':>7}{'width':>8}  module"]
        for site in self.sites.values():
            first = site.layers[0]
            columns = "" if first.columns is None else f" columns {first.columns[0]}..{first.columns[-1]}"
            lines.append(f"{site.name:10}{len(site.layers):7}{site.width:8}  {first.path} ({first.io}){columns}")
        for inputs in dict.fromkeys(finding.inputs for finding in self.findings):
            lines += ["", *self._table(inputs)]
        lines += self._failures()
        verdict = "as plain hooks do, on every site" if self.healthy else "NOT as plain hooks do: do not trust results"
        return "\n".join([*lines, "", f"gatescope reads and edits this model {verdict}."])

    def _failures(self) -> list[str]:
        """What failed and how, sites and checks of which the same is to be said together."""
        alike: dict[tuple[str, str], list[Finding]] = {}
        for finding in self.findings:
            if not finding.holds:
                alike.setdefault((finding.inputs, finding.detail), []).append(finding)
        lines: list[str] = []
        for (inputs, detail), failed in alike.items():
            sites = ", ".join(dict.fromkeys(finding.site for finding in failed))
            checks = ", ".join(dict.fromkeys(finding.check for finding in failed))
            lines.append(f"{sites}{'' if inputs == 'text' else f' ({inputs})'}: {checks} failed: {detail}")
        return lines

    def _table(self, inputs: str) -> list[str]:
        findings = [finding for finding in self.findings if finding.inputs == inputs]
        checks = dict.fromkeys(finding.check for finding in findings)
        cells = {(finding.site, finding.check): "ok" if finding.holds else "FAILED" for finding in findings}
        lines = [f"{inputs:10}" + "".join(f"{check:>14}" for check in checks)]
        # Rows that are no sites, such as "batch", come last.
        for site in dict.fromkeys([*self.sites, *(finding.site for finding in findings)]):
            lines.append(f"{site:10}" + "".join(f"{cells.get((site, check), '-'):>14}" for check in checks))
        return lines


def tried(sites: Iterable[str], check: str, inputs: str, work: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a check found; where it dies of an error, that it failed for these sites, and of what."""
    try:
        return list(work())
    except Exception as error:  # whatever it is: the doctor is asked because something may be wrong
        first_line = (str(error).strip() or "no message").splitlines()[0]
        return [Finding(site, check, False, f"{type(error).__name__}: {first_line}", inputs) for site in sites]
