"use strict";
const now = document.getElementById("map-now"), follow = document.getElementById("map-follow");
let playing = null;
function play(mark) {
  const sound = document.getElementById(mark.dataset.sound);
  if (playing) playing.pause();
  playing = sound;
  if (!sound) return;
  sound.currentTime = 0;
  sound.play().catch((error) => { now.textContent = `${mark.getAttribute("aria-label")} (not played: ${error.message})`; });
}
for (const mark of document.querySelectorAll("#map-marks > g")) {
  const show = () => {
    now.textContent = mark.getAttribute("aria-label");
    if (follow && follow.checked) play(mark);
  };
  mark.addEventListener("focus", show);
  mark.addEventListener("mouseenter", show);
  mark.addEventListener("click", () => { now.textContent = mark.getAttribute("aria-label"); play(mark); });
  mark.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    play(mark);
  });
}
