// Deletion curves as a picture. `element`, `percent` and `METHODS` are the page's.

const FRAME = { width: 420, height: 250, left: 46, top: 12, right: 24, bottom: 40 };

/** The deletion curves of a class, one line a method, as a picture. */
function curvesPicture(lines, name) {
  const { width, height, left, top, right, bottom } = FRAME;
  const most = Math.max(...lines.flat().map((p) => p ?? 0), 1e-9);
  const x = (share) => left + share * (width - left - right);
  const y = (p) => height - bottom - (p / most) * (height - top - bottom);
  const line = (x1, y1, x2, y2, attributes) => element("line", { x1, y1, x2, y2, ...attributes });
  const text = (words, x, y, anchor = "start") => element("text", { x, y, "text-anchor": anchor }, words);
  const picture = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "font-size": 12, "font-family": "sans-serif" });
  picture.setAttribute("aria-label", `Deletion curves of ${name}`);
  picture.append(
    line(x(0), y(0), x(1), y(0), { stroke: "#444" }),
    line(x(0), y(0), x(0), y(most), { stroke: "#444" }),
    ...[0, 0.5, 1].map((share) => text(`${100 * share}%`, x(share), y(0) + 16, "middle")),
    text("0%", left - 5, y(0) + 4, "end"),
    text(percent(most), left - 5, y(most) + 4, "end"),
    text("pixels removed, the map's highest first", x(0.5), height - 6, "middle"),
  );
  METHODS.forEach(({ title, colour, dash }, method) => {
    if (lines[method].includes(null)) return;
    const drawn = { fill: "none", stroke: colour, "stroke-width": 2.2, "stroke-dasharray": dash };
    const steps = lines[method].length - 1;
    const points = lines[method].map((p, step) => `${x(step / steps).toFixed(1)} ${y(p).toFixed(1)}`);
    const middle = 20 + 18 * method;
    picture.append(
      element("path", { d: `M${points.join("L")}`, ...drawn }),
      line(width - 130, middle, width - 98, middle, drawn),
      text(title, width - 92, middle + 4),
    );
  });
  return picture;
}

/** The mean of a curve by the trapezoidal rule. */
function areaUnder(curve) {
  const sum = curve.reduce((total, p) => total + p, 0) - (curve[0] + curve.at(-1)) / 2;
  return sum / (curve.length - 1);
}
