"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (tag, text, attributes = {}) => {
    const node = document.createElement(tag);
    if (text !== undefined && text !== null) node.textContent = text;
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const percent = (share) => `${(100 * share).toFixed(1)} %`;

  // Tooltips

  const tip = document.getElementById("tip");
  const showTip = (_handler, event, _item, value) => {
    tip.hidden = value === null || value === undefined || value === "";
    if (tip.hidden) return;
    tip.replaceChildren(...Object.entries(value).map(([name, content]) => {
      const number = Number(content);
      const plain = content === "" || Number.isNaN(number) ? content : String(Number(number.toPrecision(5)));
      return make("div", name === "title" ? content : `${name}: ${plain}`);
    }));
    const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, window.innerHeight - tip.offsetHeight - 8)}px`;
  };

  // Charts

  const text = { labelColor: "var(--muted)", titleColor: "var(--muted)", titleFontWeight: 400 };
  const config = {
    aria: false, background: null, font: "system-ui, DejaVu Sans, sans-serif", view: { stroke: null },
    axis: { ...text, domainColor: "var(--faint)", tickColor: "var(--faint)", gridColor: "var(--line)", labelFontSize: 11, titleFontSize: 12, titlePadding: 8, labelLimit: 180 },
    legend: { ...text, labelFontSize: 12, symbolSize: 90, rowPadding: 4 }, header: { ...text, labelFontSize: 12 },
    rule: { color: "var(--muted)" },
  };
  const options = { ast: true, actions: false, renderer: "svg", defaultStyle: false, logLevel: 1, tooltip: showTip };

  const embed = (plot, spec, rows) => {
    const wide = Math.max(200, plot.clientWidth);
    const width = spec.encoding?.row ? wide - 90 : "container";
    const legend = wide < 460 && spec.layer ? { ...config.legend, columns: 1 } : config.legend;
    const sized = { ...spec, width, autosize: { type: spec.encoding?.row ? "pad" : "fit-x", contains: "padding" } };
    return vegaEmbed(plot, { ...sized, data: { name: "rows", values: rows }, config: { ...config, legend } }, options);
  };

  const describe = (plot, label) => {
    const svg = plot.querySelector("svg");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", label);
    svg.firstElementChild.setAttribute("aria-hidden", "true");
  };

  class Figure {
    constructor(node) {
      this.node = node;
      this.plot = node.querySelector(".plot");
      ({ spec: this.spec, rows: this.rows } = data.charts[node.dataset.chart]);
      this.selects = all("select[data-field]", node);
      for (const select of this.selects) select.addEventListener("change", () => this.draw());
      node.querySelector(".numbers").addEventListener("toggle", () => this.listNumbers());
    }
    get chosen() {
      return this.rows.filter((row) => this.selects.every((select) => String(row[select.dataset.field]) === select.value));
    }
    async draw() {
      this.drawn = true;
      this.listNumbers();
      const { view } = await embed(this.plot, this.spec, this.chosen);
      const chosen = this.selects.map((select) => select.value).join(", ");
      describe(this.plot, [this.node.querySelector("h4").textContent, chosen].filter(Boolean).join(": "));
      return view;
    }
    listNumbers() {
      const details = this.node.querySelector(".numbers");
      if (!details.open) return;
      const hidden = new Set(this.selects.map((select) => select.dataset.field));
      const names = [...new Set(this.rows.flatMap(Object.keys))].filter((name) => !hidden.has(name));
      const table = make("table", null, { class: "plain" });
      table.createTHead().insertRow().append(...names.map((name) => make("th", name, { scope: "col" })));
      const body = table.createTBody();
      for (const row of this.chosen) body.insertRow().append(...names.map((name) => make("td", row[name] ?? "–")));
      const place = make("div", null, { class: "table", role: "region", tabindex: "0", "aria-label": "Numbers" });
      place.append(table);
      details.replaceChildren(details.firstElementChild, place);
    }
  }

  // Tables

  const filters = document.getElementById("filters");
  const tables = all("table.results");
  const lines = tables.flatMap((table) => all("tbody tr", table));

  const fill = (name) => {
    const values = [...new Set(lines.map((line) => line.dataset[name]))];
    filters.elements[name].append(...values.map((value) => make("option", value, { value })));
  };
  const filter = () => {
    const wanted = Object.fromEntries(new FormData(filters));
    for (const line of lines) {
      const title = line.cells[0].textContent.toLowerCase();
      const fits = ["method", "mask"].every((name) => !wanted[name] || wanted[name] === line.dataset[name]);
      line.hidden = !(fits && title.includes(wanted.title.toLowerCase()));
    }
    for (const problem of all("[data-problem]")) problem.hidden = !!wanted.scenario && wanted.scenario !== problem.dataset.problem;
    redraw();
  };
  const sort = (head) => {
    const table = head.closest("table"), body = table.tBodies[0];
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    for (const other of all("thead th", table)) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const place = head.cellIndex, sign = ascending ? 1 : -1;
    const key = (line) => {
      const { value } = line.cells[place].dataset;
      return value === undefined ? line.cells[place].textContent : value === "" ? null : Number(value);
    };
    const compare = (one, other) => {
      const [first, second] = [key(one), key(other)];
      if (first === null || second === null) return (first === null) - (second === null);
      return sign * (typeof first === "string" ? first.localeCompare(second) : first - second);
    };
    body.append(...[...body.rows].sort(compare));
  };
  const listColumns = () => {
    const heads = new Map();
    for (const head of all("th[data-column]")) {
      const known = heads.get(head.dataset.column);
      heads.set(head.dataset.column, { text: head.textContent.trim(), shown: !head.hidden || known?.shown });
    }
    for (const [name, { text: title, shown }] of heads) {
      const box = make("input", null, { type: "checkbox" }), label = make("label");
      box.checked = shown;
      box.addEventListener("change", () => {
        for (const cell of all(".results [data-column]")) if (cell.dataset.column === name) cell.hidden = !box.checked;
      });
      label.append(box, title);
      filters.querySelector("fieldset").append(label);
    }
  };
  const joined = {
    csv: (grid) => grid.map((line) => line.join(",")).join("\n"),
    markdown: ([head, ...rest]) => {
      const rule = head.map((_, place) => (place ? "---:" : "---"));
      return [head, rule, ...rest].map((line) => `| ${line.join(" | ")} |`).join("\n");
    },
    latex: ([head, ...rest]) => {
      const line = (cells) => `${cells.join(" & ")} \\\\`;
      const begin = `\\begin{tabular}{l${"r".repeat(head.length - 1)}}`;
      return [begin, "\\toprule", line(head), "\\midrule", ...rest.map(line), "\\bottomrule", "\\end{tabular}"].join("\n");
    },
  };
  const copied = (format) => tables.filter((table) => !table.closest("[data-problem]").hidden).map((table) => {
    const cells = data.copies[table.dataset.key][format];
    const columns = all("thead th", table).map((head, place) => (head.hidden ? -1 : place)).filter((place) => place >= 0);
    const places = [0, ...all("tbody tr", table).filter((line) => !line.hidden).map((line) => Number(line.dataset.place))];
    return joined[format](places.map((place) => columns.map((column) => cells[place][column])));
  }).join("\n\n");
  const copy = async (format) => {
    const content = copied(format), said = filters.querySelector("output");
    try {
      await navigator.clipboard.writeText(content);
    } catch {
      const area = make("textarea", content);
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    said.textContent = "copied";
    said.dataset.content = content;
    setTimeout(() => { said.textContent = ""; }, 2000);
  };

  // Images

  const picture = (image, label) => (image.picture
    ? make("img", null, { src: image.picture, alt: `${image.name}, class ${label}` })
    : make("span", null, { class: "blank" }));
  const predictions = (entries, classes) => {
    const table = make("table"), body = table.createTBody();
    for (const [when, found] of entries) {
      if (!found) continue;
      const line = body.insertRow();
      line.append(make("th", when, { scope: "row" }), make("td", classes[found[0]]), make("td", percent(found[1]), { class: "number" }));
    }
    return table;
  };
  const drawGallery = (node) => {
    const { images, classes, before, after, retrained } = data.galleries[node.dataset.gallery];
    const choice = (name) => node.querySelector(`[data-choice=${name}]`).value;
    const now = after[choice("method")];
    const moved = (place) => Math.abs(now[place][2] - before[place][2]);
    const known = (place) => now[place][0] === images[place].label && (!retrained || retrained[place][0] !== images[place].label);
    const orders = {
      known: (one, other) => known(other) - known(one) || moved(other) - moved(one),
      moved: (one, other) => moved(other) - moved(one),
      index: (one, other) => images[one].index - images[other].index,
    };
    const cards = images.map((_, place) => place).sort(orders[choice("sort")]).map((place) => {
      const image = images[place], label = classes[image.label];
      const card = make("li", null, known(place) ? { class: "known" } : {});
      const told = known(place) ? "still known" : `own class: ${percent(before[place][2])} → ${percent(now[place][2])}`;
      const entries = [["before", before[place]], ["after", now[place]], ["retrained", retrained?.[place]]];
      card.append(picture(image, label), make("b", `class ${label}`), make("small", `${image.name}; ${told}`), predictions(entries, classes));
      return card;
    });
    node.querySelector(".cards").replaceChildren(...cards);
  };

  // Latent spaces

  const planeSpec = (space) => {
    const between = (axis) => `datum.${axis}0 + (datum.${axis}1 - datum.${axis}0) * min(at, 1) + (datum.${axis}2 - datum.${axis}1) * max(at - 1, 0)`;
    const ends = (axis) => space.models.flatMap((model) => model[axis]);
    const domain = (axis) => [Math.min(...ends(axis)), Math.max(...ends(axis))];
    const place = (axis) => ({ field: `p${axis}`, type: "quantitative", axis: null, scale: { domain: domain(axis), padding: 8, nice: false, zero: false } });
    const fits = "(chosen < 0 || datum.label == chosen)";
    const hues = space.classes.map((_, label) => `var(--c${(label % 10) + 1})`);
    return {
      height: 260,
      params: [{ name: "at", value: 0 }, { name: "chosen", value: -1 }, { name: "over", value: 0 }],
      transform: ["x", "y"].map((axis) => ({ calculate: between(axis), as: `p${axis}` })),
      encoding: { x: place("x"), y: place("y"), color: { field: "label", type: "nominal", legend: null, scale: { domain: space.classes.map((_, label) => label), range: hues } } },
      layer: [
        { mark: { type: "point", filled: true, size: 26 }, encoding: { opacity: { condition: { test: fits, value: 0.8 }, value: 0.06 } } },
        { transform: [{ filter: "datum.forgotten" }], mark: { type: "point", filled: false, size: 62, strokeWidth: 1 }, encoding: { opacity: { condition: { test: fits, value: 0.8 }, value: 0.06 } } },
        { transform: [{ filter: "datum.place == over" }], mark: { type: "point", filled: false, size: 220, strokeWidth: 2, color: "var(--ink)" }, encoding: { color: { value: "var(--ink)" } } },
      ],
    };
  };

  class Space {
    constructor(node) {
      this.node = node;
      this.space = data.spaces[node.dataset.space];
      this.views = [];
      this.over = 0;
      for (const name of ["model", "class", "image", "slide"]) this.choice(name).addEventListener("input", () => this.change(name));
    }
    choice(name) { return this.node.querySelector(`[data-choice=${name}]`); }
    get trio() {
      const { models, retrained } = this.space;
      const unlearned = models[Number(this.choice("model").value)];
      return [models[0], unlearned, retrained ? models[retrained] : unlearned];
    }
    get rows() {
      return this.space.images.map((image, place) => {
        const row = { place, label: image.label, forgotten: image.forgotten };
        this.trio.forEach((model, at) => { row[`x${at}`] = model.x[place]; row[`y${at}`] = model.y[place]; });
        return row;
      });
    }
    async draw() {
      this.drawn = true;
      for (const plot of all(".plane", this.node)) {
        const { view } = await embed(plot, planeSpec(this.space), this.rows);
        describe(plot, plot.parentElement.querySelector("figcaption").textContent.trim());
        view.addEventListener("mouseover", (_event, item) => { if (item?.datum?.place !== undefined) this.look(item.datum.place); });
        this.views.push([view, plot.dataset.at]);
        await view.signal("at", plot.dataset.at === "slide" ? 0 : Number(plot.dataset.at)).runAsync();
      }
      this.look(0);
    }
    change(name) {
      if (name === "image") this.look(Number(this.choice("image").value));
      const chosen = this.choice("class").value === "" ? -1 : Number(this.choice("class").value);
      for (const [view, at] of this.views) {
        if (name === "model") view.data("rows", this.rows);
        if (name === "class") view.signal("chosen", chosen);
        if (name === "slide" && at === "slide") view.signal("at", Number(this.choice("slide").value));
        view.run();
      }
      if (name === "model") this.look(this.over);
    }
    look(place) {
      this.over = place;
      this.choice("image").value = place;
      for (const [view] of this.views) view.signal("over", place).run();
      const image = this.space.images[place], { classes } = this.space, label = classes[image.label];
      const [base, unlearned, retrained] = this.trio.map((model) => [model.prediction[place], model.confidence[place]]);
      const entries = [["base", base], ["unlearned", unlearned], ["retrained", this.space.retrained ? retrained : null]];
      const told = `${image.name}${image.forgotten ? "; to be forgotten" : ""}`;
      this.node.querySelector(".looked").replaceChildren(picture(image, label), make("b", `class ${label}`), make("small", told), predictions(entries, classes));
    }
  }

  // All of it: what is in sight first, the rest while the page is idle

  const figures = all("[data-chart]").map((node) => new Figure(node));
  const spaces = all("[data-space]").map((node) => new Space(node));
  const waiting = [...figures, ...spaces];
  const draw = async (drawing) => {
    if (drawing.drawn || !drawing.node.clientWidth) return;
    try {
      await drawing.draw();
    } catch (error) {
      console.error(error);
    }
  };
  const idle = window.requestIdleCallback ?? ((call) => setTimeout(call, 1));
  const rest = () => {
    const next = waiting.find((drawing) => !drawing.drawn && drawing.node.clientWidth);
    if (next) draw(next).then(() => idle(rest));
    else document.documentElement.dataset.ready = "true";
  };
  const redraw = () => idle(rest);
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) draw(waiting.find((drawing) => drawing.node === entry.target));
  }, { rootMargin: "200px" });
  for (const drawing of waiting) watcher.observe(drawing.node);
  if (filters) {
    for (const name of ["method", "mask"]) fill(name);
    filters.addEventListener("input", filter);
    filters.addEventListener("submit", (event) => event.preventDefault());
    listColumns();
    for (const button of all("[data-copy]")) button.addEventListener("click", () => copy(button.dataset.copy));
    for (const button of all("[data-sort]")) button.addEventListener("click", () => sort(button.closest("th")));
  }
  for (const node of all("[data-gallery]")) {
    for (const select of all("select", node)) select.addEventListener("change", () => drawGallery(node));
    drawGallery(node);
  }
  idle(rest);
})();
