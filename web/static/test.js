// The chart of the round trips: one point a packet, a lost packet is a gap with a tick below.
let plot = null;
let drawn = null;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function ticks(chart) {
  const { ctx, bbox } = chart;
  const ratio = devicePixelRatio;
  ctx.save();
  ctx.strokeStyle = colour("--bad");
  ctx.lineWidth = 1.5 * ratio;
  chart.data[1].forEach((value, i) => {
    if (value !== null) return;
    const x = Math.round(chart.valToPos(chart.data[0][i], "x", true));
    ctx.beginPath();
    ctx.moveTo(x, bbox.top + bbox.height);
    ctx.lineTo(x, bbox.top + bbox.height - 9 * ratio);
    ctx.stroke();
  });
  ctx.restore();
}

function draw(samples) {
  const place = document.getElementById("chart");
  if (!place || !samples.length) return;
  document.getElementById("chart-box").hidden = false;
  drawn = samples;
  const data = [samples.map((_, i) => i + 1), samples];
  if (plot && place.contains(plot.root)) {
    plot.setData(data);
  } else {
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
    const lost = (_, value, __, at) => (at === null || at === undefined ? "\u2013" : value === null ? "lost" : `${value.toFixed(2)} ms`);
    plot = new uPlot(
      {
        width: place.clientWidth,
        height: 210,
        scales: { x: { time: false }, y: { range: (_, low, high) => [0, (high || 1) * 1.1] } },
        axes: [{ ...axis, size: 32 }, { ...axis, label: "ms", labelSize: 18, size: 44 }],
        series: [
          { label: "Packet", value: (_, value) => value ?? "\u2013" },
          { label: "Round trip", stroke: colour("--accent"), width: 1.5, spanGaps: false, points: { show: true, size: 4, fill: colour("--accent") }, value: lost },
        ],
        hooks: { draw: [ticks] },
      },
      data,
      place,
    );
  }
  const missing = samples.filter((sample) => sample === null).length;
  place.setAttribute("aria-label", `Round-trip time of ${samples.length} packets, ${missing} of them lost; the table has every value`);
}

function fromTable() {
  const rows = [...document.querySelectorAll("#samples tbody tr")];
  if (rows.length) draw(rows.map((row) => (row.cells[1].textContent === "lost" ? null : Number(row.cells[1].textContent))));
  else if (drawn) draw(drawn);
}

document.body.addEventListener("progress", (event) => {
  const test = document.getElementById("test");
  if (event.detail.samples && test && test.dataset.test === event.detail.id) draw(event.detail.samples);
});
document.body.addEventListener("htmx:afterSettle", fromTable);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  plot?.destroy();
  plot = null;
  fromTable();
});
new ResizeObserver(([entry]) => {
  if (plot) plot.setSize({ width: entry.contentRect.width - 34, height: 210 });
}).observe(document.getElementById("main"));
fromTable();
