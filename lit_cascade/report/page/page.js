"use strict";
// Sliders and clicks: they show texts that the page has, and tell the chart which row it is.
const parts = JSON.parse(document.getElementById("data").textContent);

function show(section, part, at, view) {
  for (const [heading, texts] of Object.entries(part.slider.tiles)) {
    for (const one of section.querySelectorAll("[data-tile]")) {
      if (one.dataset.tile === heading) one.textContent = texts[at];
    }
  }
  if (view) view.signal("at", at).runAsync();
}

function pick(section, part, at, view) {
  const one = part.clicks[at];
  const panel = section.querySelector(".picked");
  panel.querySelector("h3").textContent = one.stages;
  panel.querySelector("p").textContent =
    `thresholds ${one.thresholds}; accuracy ${one.accuracy}; ${one.cost}` + (one.file ? `; ${one.file}` : "");
  panel.querySelector("pre").textContent = one.file ? part.files[one.file] : one.text;
  view.signal("at", at).runAsync();
}

parts.forEach((part, number) => {
  if (!part.chart) return;
  const section = document.getElementById(`part-${number}`);
  const box = section.querySelector(".chart");
  const options = { actions: false, renderer: "svg", ast: true, mode: "vega-lite", tooltip: { theme: "custom" } };
  vegaEmbed(box, part.chart, options).then(({ view }) => {
    const slider = section.querySelector("input[type=range]");
    if (slider) {
      slider.addEventListener("input", () => show(section, part, Number(slider.value), view));
      section.querySelector("button").addEventListener("click", () => {
        slider.value = part.slider.at;
        show(section, part, part.slider.at, view);
      });
    }
    if (part.clicks.length) {
      view.addEventListener("click", (event, item) => {
        if (item && item.datum && Number.isInteger(item.datum.i)) pick(section, part, item.datum.i, view);
      });
      for (const row of section.querySelectorAll("[data-config]")) {
        const at = part.clicks.findIndex((one) => one.file === row.dataset.config);
        if (at >= 0) row.addEventListener("click", () => pick(section, part, at, view));
      }
      pick(section, part, part.chart.params.find((one) => one.name === "at").value, view);
    }
    box.dataset.ready = "yes";
  });
});
