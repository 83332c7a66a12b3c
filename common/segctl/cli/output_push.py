"""A push as it happens, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from segctl.cli.output import Line, Span, Style, bad, bold, count, dim, fit, good, line, note, warn
from segctl.cli.views import Done, Generation, Phase, Proof, Trial

Step = Generation | Proof | Phase | Done

MARKS = {
    "proven": Span("✓", Style.GOOD),
    "returned": Span("↩", Style.WARN),
    "refused": Span("✗", Style.BAD),
    "released": Span("✗", Style.BAD),
    "offline": Span("-", Style.WARN),
    "waiting": Span("…", Style.WARN),
}


@dataclass(frozen=True, slots=True)
class Push:
    """What is known of a push so far. `proofs` holds the latest word of each host."""

    generation: Generation | None = None
    proofs: tuple[Proof, ...] = ()
    done: Done | None = None
    phase: Phase | None = None

    def after(self, step: Step) -> Push:
        if isinstance(step, Generation):
            return replace(self, generation=step)
        if isinstance(step, Done):
            return replace(self, done=step)
        if isinstance(step, Phase):
            return replace(self, phase=step)
        return replace(self, proofs=(*(p for p in self.proofs if p.host != step.host), step))

    def complete(self, allow_offline: bool) -> bool:
        """True when it is confirmed and every host proved it; those that are offline may be left out on request."""
        if self.done is None or self.done.undone:
            return False
        missing = self.done.refused + self.done.released + self.done.waiting
        return not (missing or (self.done.offline and not allow_offline))


def render_step(step: Step) -> list[Line]:
    if isinstance(step, Generation):
        return [line(bold(f"Generation {step.number}"), " is stored, and on trial until it is confirmed")]
    if isinstance(step, Phase):
        return [line(dim(describe_phase(step)))]
    if isinstance(step, Proof) and step.state != "staged":
        mark = MARKS.get(step.state, Span("?", Style.WARN))
        what = {
            "proven": f"proven in {step.after_ms:.0f} ms",
            "returned": "holds again what it held before",
            "refused": "refused: the kernel keeps the generation before",
            "released": "released: enforces nothing until `segctl-agent load` on it",
            "offline": "never connected: enforces nothing until it first connects"
            if step.never_connected
            else "offline: takes it when it is back",
            "waiting": "has not answered yet",
        }.get(step.state, step.state)
        digest = dim(f"  kernel {step.kernel_digest[:12]}") if step.kernel_digest else ""
        lines = [line("  ", mark, " ", fit(step.host, max(20, len(step.host))), " ", what, digest)]
        return lines + [line("      ", bad(error)) for error in step.errors]
    return []


def describe_phase(phase: Phase) -> str:
    """What happens now."""
    hosts = count(phase.hosts, "host")
    wave = f"wave {phase.wave} of {phase.waves}: " if phase.waves > 1 else ""
    return wave + {
        "staging": f"getting ready on {hosts}; nothing changes yet",
        "widening": f"a permission moves: {hosts} permit what either generation permits, before anything is taken away",
        "activating": f"activating on {hosts}",
        "watching": f"watching {phase.seconds} s for flows that passed before and are denied now",
        "pausing": f"pausing for {phase.seconds} s; segctl rollback ends the push",
        "confirming": "proven: confirming",
        "undoing": f"undoing on {hosts}",
    }.get(phase.name, phase.name)


def render_trial(trial: Trial) -> list[Line]:
    """For the status: a push that somebody else may be waiting for."""
    number, author = trial.generation.number, trial.generation.author
    return [
        line(
            warn(f"Generation {number} is on trial"),
            f", pushed by {author}: {describe_phase(trial.phase)}; {count(trial.proven, 'host')} proved it.",
        ),
        line("  ", note("→ "), "it is confirmed or undone by itself; segctl rollback ends it"),
    ]


def _undone(push: Push, number: int, done: Done) -> list[Line]:
    back = [p for p in push.proofs if p.state == "returned"]
    lines = [
        line(bad("Undone."), f" Generation {number} is not in force: ", bad(done.why)),
    ]
    missing = sorted(p.host for p in push.proofs if p.state in ("waiting", "offline"))
    if back:
        lines.append(line(f"  {count(len(back), 'host')} returned to what was in force before."))
    elif not missing:
        lines.append(line("  No host had it in force."))
    if missing:
        lines.append(line(warn(f"  Not heard of: {', '.join(missing)}"), ", which return by themselves"))
    return [
        *lines,
        line("  ", note("→ "), "mend the cause and push again. segctl explain and segctl denied tell about a flow"),
    ]


def render_summary(push: Push) -> list[Line]:
    """The end of a push: counts, then what to do about every kind of host that did not prove it."""
    if push.generation is None or push.done is None:
        return [line(bad("The controller ended the push without a result."), " segctl status shows the state.")]
    done, number = push.done, push.generation.number
    if done.undone:
        return _undone(push, number, done)
    total = done.proven + done.refused + done.offline + done.waiting + done.released
    if not total:
        return [line(good("Pushed."), f" Generation {number} is active. No host is enrolled yet: segctl token create")]
    if done.proven == total:
        slowest = max((p.after_ms for p in push.proofs if p.state == "proven"), default=0.0)
        proven = "the kernel of the host proved it" if total == 1 else f"the kernels of all {total} hosts proved it"
        back = push.generation.rollback_of
        what = f"Rolled back to {back}." if back else "Pushed."
        return [line(good(what), f" Generation {number} is confirmed: {proven} within {slowest:.0f} ms.")]
    proved = f" Generation {number} is confirmed: {done.proven} of {count(total, 'host')} proved it."
    lines = [line(warn("Pushed in part."), proved)]
    if done.refused:
        names = _names(push.proofs, "refused")
        lines.append(line("  ", bad(f"{done.refused} refused"), f", and kept the generation before: {names}"))
        lines.append(line("    ", note("→ "), "mend the cause named above and push again, or segctl rollback"))
    if done.released:
        names = _names(push.proofs, "released")
        lines.append(line("  ", bad(f"{done.released} released"), f", and enforcing nothing: {names}"))
        lines.append(line("    ", note("→ "), "segctl-agent load on the host puts this generation in force"))
    if done.waiting:
        lines.append(line("  ", warn(f"{done.waiting} not proven in time"), f": {_names(push.proofs, 'waiting')}"))
        lines.append(line("    ", note("→ "), "segctl status shows whether they followed"))
    if done.offline:
        lines.append(line("  ", warn(f"{done.offline} offline"), f": {_names(push.proofs, 'offline')}"))
        lines += [line("    ", note("→ "), text) for text in _meanwhile(push.proofs)]
    return lines


def _meanwhile(proofs: Sequence[Proof]) -> list[str]:
    """What the hosts that are offline do until they are back."""
    away = [p for p in proofs if p.state == "offline"]
    new = ", ".join(sorted(p.host for p in away if p.never_connected))
    known = ["they go on with their last generation and take this one when back"]
    if not new:
        return known
    told = [f"never connected, enforces nothing until it first connects: {new}"]
    return told if all(p.never_connected for p in away) else ["the others" + known[0][4:], *told]


def render_interrupted(push: Push) -> list[Line]:
    """What state things are in after Ctrl-C."""
    if push.generation is None:
        return [
            line(warn("Interrupted"), " before the controller said that it stored anything."),
            line("  ", note("→ "), "segctl history shows whether it did"),
        ]
    proven = sum(p.state == "proven" for p in push.proofs)
    number = push.generation.number
    return [
        line(
            warn("Interrupted"),
            f", but the push of generation {number} goes on: it ends without us.",
        ),
        line(f"  {count(proven, 'host')} proved it so far."),
        line("  ", note("→ "), "segctl status to follow, segctl rollback to end it"),
    ]


def _names(proofs: Sequence[Proof], state: str) -> str:
    return ", ".join(sorted(p.host for p in proofs if p.state == state)) or "not named by the controller"
