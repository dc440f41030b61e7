"use strict";
// The id of a line, TITLE-rINDEX-NUMBER, identifies its run, or the runs that differ only in seeds; their name becomes
// its tooltip.
const labels = JSON.parse(document.getElementById("labels").textContent);
for (const line of document.querySelectorAll("svg g[id]")) {
  const found = line.id.match(/-r(\d+)-\d+(-errors)?$/);
  if (!found) continue;
  line.dataset.run = found[1];
  const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
  title.textContent = labels.length > 1 ? labels[found[1]] : labels[0];
  line.prepend(title);
}

// Pointing at a run's row, or at one of its lines, dims the other runs in all plots.
const light = (run) => {
  for (const svg of document.querySelectorAll("figure > svg")) {
    const lines = [...svg.querySelectorAll("g[data-run]")];
    const one = run !== undefined && labels.length > 1 && lines.some((line) => line.dataset.run === run);
    svg.classList.toggle("one-run", one);
    for (const line of lines) line.classList.toggle("lit", line.dataset.run === run);
  }
  for (const strip of document.querySelectorAll(".strip")) strip.classList.toggle("lit", strip.dataset.run === run);
};
for (const each of document.querySelectorAll("table.runs tr[data-run], svg g[data-run]")) {
  each.addEventListener("mouseenter", () => light(each.dataset.run));
  each.addEventListener("mouseleave", () => light(undefined));
}

// The slider shows the last grid of each strip at or before its step.
const slider = document.getElementById("step");
if (slider) {
  const steps = JSON.parse(slider.dataset.steps);
  slider.addEventListener("input", () => {
    const step = steps[slider.value];
    slider.parentElement.querySelector("output").textContent = step;
    for (const strip of document.querySelectorAll(".strip")) {
      const pictures = [...strip.querySelectorAll("img")];
      const shown = pictures.filter((picture) => Number(picture.dataset.step) <= step).pop() ?? pictures[0];
      for (const picture of pictures) picture.hidden = picture !== shown;
      strip.querySelector("figcaption span").textContent = shown.dataset.step;
    }
  });
}
