"""SVG plots without a library, since there are only two kinds."""

import math
import statistics
from html import escape

from measure import PRODUCT, Curve, Line
from report import digits

TEXT, GRID, REACHED, MISSED, PLAIN = "#24292f", "#d0d7de", "#2f6f9f", "#c2572b", "#8c959f"
COLOURS = ("#2f6f9f", "#5aa469", "#c2572b", "#8c6bb1", "#8c959f")
FONT = 'font-family="Helvetica, Arial, sans-serif"'


class Svg:
    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.parts = [f'<rect width="{width}" height="{height}" fill="white"/>']

    def line(self, x1, y1, x2, y2, colour=GRID, width=1.0, dashes="") -> None:
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        self.parts.append(f'<line {ends} stroke="{colour}" stroke-width="{width}"{dashed}/>')

    def rect(self, x, y, width, height, colour) -> None:
        place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
        self.parts.append(f'<rect {place} fill="{colour}"/>')

    def dot(self, x, y, colour) -> None:
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')

    def text(self, x, y, text, anchor="start", size=11, colour=TEXT) -> None:
        place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}"'
        self.parts.append(f"<text {place} {FONT}>{escape(text)}</text>")

    def written(self, title: str) -> str:
        size = f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><title>{escape(title)}</title>'
        return "\n".join([head, *self.parts, "</svg>"]) + "\n"


class LogAxis:
    """A logarithmic axis: powers of ten around the values, mapped to a span of the picture."""

    def __init__(self, values: list[float], begin: float, end: float):
        self.low = math.floor(math.log10(min(values)) + 1e-9)
        self.high = max(math.ceil(math.log10(max(values)) - 1e-9), self.low + 1)
        self.begin, self.end = begin, end

    def at(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.begin + share * (self.end - self.begin)

    def ticks(self) -> list[float]:
        return [10.0**power for power in range(self.low, self.high + 1)]


def ratios(lines: list[Line]) -> str:
    """A bar for each line with a peer or a limit, starting at 1×, with a mark at its goal."""
    title = f"{PRODUCT} against the best peer or its limit: how many times as good"
    drawn = [line for line in lines if line.ratio]
    left, right, top, step = 520, 90, 64, 20
    svg = Svg(1_120, top + step * len(drawn) + 44)
    bottom = top + step * len(drawn)
    svg.text(12, 24, title, size=15)
    for x, colour, text in ((12, REACHED, "goal reached"), (130, MISSED, "missed"), (210, PLAIN, "no goal")):
        svg.rect(x, 36, 10, 10, colour)
        svg.text(x + 15, 45, text)
    svg.line(290, 34, 290, 48, TEXT, 2)
    svg.text(296, 45, "goal")
    if not drawn:
        return svg.written(title)
    values = [line.ratio for line in drawn] + [line.wanted for line in drawn if line.wanted] + [1.0]
    axis = LogAxis(values, left, svg.width - right)
    for tick in axis.ticks():
        svg.line(axis.at(tick), top, axis.at(tick), bottom, TEXT if tick == 1 else GRID)
        svg.text(axis.at(tick), bottom + 16, f"{tick:g}×", "middle")
    for number, line in enumerate(drawn):
        y = top + step * number
        colour = {True: REACHED, False: MISSED, None: PLAIN}[line.reached]
        begin, end = sorted((axis.at(1.0), axis.at(line.ratio)))
        svg.rect(begin, y + 4, max(end - begin, 1.5), step - 8, colour)
        against = f" (vs {line.best})" if line.best else " (vs its limit)"
        svg.text(left - 8, y + 14, shortened(line.work + against, 88), "end", 10)
        if line.wanted:
            svg.line(axis.at(line.wanted), y + 1, axis.at(line.wanted), y + step - 1, TEXT, 2)
        svg.text(max(end, axis.at(line.wanted or 1.0)) + 5, y + 14, f"{digits(line.ratio)}×", size=10)
    return svg.written(title)


def shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def latency(curves: list[Curve]) -> str:
    """Medians with their spread over the size of the store, one panel per curve, on logarithmic axes."""
    title = "Latency of a read of 1 day against the size of the store"
    panel, height, left, top, bottom = 520, 360, 64, 70, 310
    svg = Svg(panel * max(len(curves), 1), height)
    svg.text(12, 24, title, size=15)
    names = list(dict.fromkeys(name for curve in curves for name in curve.points))
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}
    for number, name in enumerate(names):
        svg.dot(20 + 190 * number, 42, colours[name])
        svg.text(28 + 190 * number, 46, name)
    measured = [point for curve in curves for points in curve.points.values() for point in points]
    taken = [value for _, samples in measured for value in samples]
    if not taken:
        return svg.written(title)
    down = LogAxis([value * 1e6 for value in taken], bottom, top)
    for number, curve in enumerate(curves):
        begin = number * panel + left
        sizes = [size for points in curve.points.values() for size, _ in points]
        across = LogAxis(sizes, begin, begin + panel - left - 30)
        for tick in down.ticks():
            svg.line(across.begin, down.at(tick), across.end, down.at(tick))
            unit = f"{tick:g} µs" if tick < 1_000 else f"{tick / 1_000:g} ms"
            svg.text(across.begin - 6, down.at(tick) + 4, unit, "end", 10)
        for tick in across.ticks():
            svg.line(across.at(tick), top, across.at(tick), bottom)
            svg.text(across.at(tick), bottom + 15, f"{tick:,.0f}", "middle", 10)
        svg.text((across.begin + across.end) / 2, bottom + 34, curve.axis, "middle")
        for name, points in curve.points.items():
            before = None
            for size, samples in points:
                x, y = across.at(size), down.at(statistics.median(samples) * 1e6)
                svg.line(x, down.at(min(samples) * 1e6), x, down.at(max(samples) * 1e6), colours[name], 1.5)
                svg.dot(x, y, colours[name])
                if before:
                    svg.line(*before, x, y, colours[name], 1.5)
                before = (x, y)
    return svg.written(title)
