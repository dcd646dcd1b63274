"""The only script of the page: values under the pointer. Without it, figures keep their titles and nothing is lost."""

SCRIPT = """
"use strict";
(() => {
  const tip = document.body.appendChild(document.createElement("div"));
  tip.id = "tip";
  const show = (event, lines) => {
    tip.replaceChildren(...lines.map((line, place) => {
      const row = document.createElement(place || lines.length === 1 ? "div" : "b");
      row.textContent = line;
      return row;
    }));
    const box = tip.getBoundingClientRect(), gap = 14;
    const left = Math.min(event.clientX + gap, innerWidth - box.width - 8);
    const top = event.clientY - box.height - gap;
    tip.style.left = Math.max(8, left) + "px";
    tip.style.top = (top < 8 ? event.clientY + gap : top) + "px";
    tip.classList.add("on");
  };
  const hide = () => tip.classList.remove("on");
  for (const title of document.querySelectorAll("svg title")) {
    const text = title.textContent, mark = title.parentNode;
    mark.setAttribute("aria-label", text);
    title.remove();
    mark.addEventListener("pointermove", (event) => show(event, [text]));
    mark.addEventListener("pointerleave", hide);
  }
  for (const svg of document.querySelectorAll("svg[data-hover]")) {
    const data = JSON.parse(svg.dataset.hover), space = "http://www.w3.org/2000/svg";
    const guide = svg.appendChild(document.createElementNS(space, "line"));
    guide.setAttribute("class", "guide");
    const dots = data.curves.map((curve) => {
      const dot = svg.appendChild(document.createElementNS(space, "circle"));
      dot.setAttribute("class", "dot " + curve.style);
      dot.setAttribute("r", 0);
      return dot;
    });
    const height = svg.viewBox.baseVal.height;
    svg.addEventListener("pointermove", (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      let best = 0;
      data.x.forEach((x, place) => { if (Math.abs(x - at.x) < Math.abs(data.x[best] - at.x)) best = place; });
      for (const [name, value] of [["x1", data.x[best]], ["x2", data.x[best]], ["y1", 26], ["y2", height - 38]])
        guide.setAttribute(name, value);
      guide.style.display = "";
      const lines = [data.place[best]];
      data.curves.forEach((curve, place) => {
        const y = curve.y[best];
        dots[place].setAttribute("r", y === null ? 0 : 4);
        if (y === null) return;
        dots[place].setAttribute("cx", data.x[best]);
        dots[place].setAttribute("cy", y);
        lines.push(curve.name + " " + curve.text[best]);
      });
      show(event, lines);
    });
    svg.addEventListener("pointerleave", () => {
      hide();
      guide.style.display = "none";
      dots.forEach((dot) => dot.setAttribute("r", 0));
    });
  }
})();
"""
