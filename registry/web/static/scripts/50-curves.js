"use strict";
/* Curves of trainings: each <figure data-curves="ADDRESS"> becomes panels over one axis, as /ui/series describes them.
   data-curves="#ID" takes the numbers from a <script type="application/json"> of the page instead, and data-seconds="#ID" those
   by seconds. data-every-s="10" draws them again as often, while somebody looks; an event "curves:refresh" does it at once.
   What is drawn has all points in it: the server reduces them to a band and a mean. */
(() => {
  const COLOURS = 4;
  const DASHES = [[], [7, 3], [2, 3], [9, 3, 2, 3]];
  /* So many curves have their bands drawn; of more, the one that is pointed at. */
  const BANDED = 8;
  /* A line stops where the next value is this many times as far away as it usually is. */
  const GAP = 8;
  const HEIGHTS = { loss: 260 };
  const HEIGHT = 110;
  /* Between ticks of an axis of time, in seconds. */
  const INTERVALS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 432000, 864000];
  let groups = 0;

  const element = (name, kind, text) => {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const digits = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return Number(value.toPrecision(3)).toExponential().replace("e+", "e");
    return String(Number(value.toPrecision(4)));
  };
  const duration = (seconds) => {
    if (seconds < 120) return `${digits(seconds)} s`;
    if (seconds < 7200) return `${Number((seconds / 60).toPrecision(3))} min`;
    return `${Number((seconds / 3600).toPrecision(3))} h`;
  };

  class Figure {
    constructor(figure) {
      this.figure = figure;
      this.by = "step";
      this.log = false;
      this.hidden = new Set();
      this.marked = null;
      this.plots = [];
      this.group = `curves-${++groups}`;
      this.tools = element("div", "curve-tools");
      this.space = element("div", "curve-panels");
      this.legend = element("ul", "curve-names");
      this.readout = element("output", "curve-readout");
      this.probe = element("span", "curve-probe");
      this.probe.setAttribute("aria-hidden", "true");
      this.caption = figure.querySelector("figcaption") || figure.appendChild(element("figcaption"));
      this.note = this.caption.querySelector("[data-note]") || this.caption.appendChild(element("span"));
      this.caption.before(this.tools, this.space, this.readout, this.legend, this.probe);
      this.addTools();
      this.watch();
      this.load();
    }

    /* Buttons, which say what is on. */
    addTools() {
      const choice = (text, on, act) => {
        const button = element("button", "curve-tool", text);
        button.type = "button";
        button.setAttribute("aria-pressed", String(on));
        button.addEventListener("click", act);
        this.tools.append(button);
        return button;
      };
      this.logButton = choice("Log scale", false, () => {
        this.log = !this.log;
        this.logButton.setAttribute("aria-pressed", String(this.log));
        this.draw();
      });
      const inPage = this.figure.dataset.curves.startsWith("#");
      if (!inPage || this.figure.dataset.seconds) {
        this.byButton = choice("By time", false, () => {
          this.by = this.by === "step" ? "seconds" : "step";
          this.byButton.setAttribute("aria-pressed", String(this.by === "seconds"));
          this.range = null;
          this.load();
        });
      }
      this.wholeButton = choice("Whole range", false, () => { this.range = null; this.draw(); });
      this.wholeButton.removeAttribute("aria-pressed");
      this.wholeButton.hidden = true;
    }

    watch() {
      const scheme = matchMedia("(prefers-color-scheme: dark)");
      const redraw = () => { this.readColours(); for (const plot of this.plots) plot.redraw(false); this.drawLegend(); };
      scheme.addEventListener("change", redraw);
      const sized = new ResizeObserver(() => {
        const width = this.width();
        if (width && width !== this.drawnWidth) this.resize(width);
      });
      sized.observe(this.space);
      this.figure.addEventListener("curves:refresh", () => this.load());
      const every = Number(this.figure.dataset.everyS || 0);
      const timer = every && setInterval(() => {
        if (!this.figure.isConnected) stop();
        else if (!document.hidden) this.load();
      }, every * 1000);
      const stop = () => { clearInterval(timer); sized.disconnect(); scheme.removeEventListener("change", redraw); };
      this.stop = stop;
    }

    width() { return Math.floor(this.space.clientWidth); }

    async load() {
      const from = this.by === "seconds" && this.figure.dataset.seconds ? this.figure.dataset.seconds : this.figure.dataset.curves;
      const asked = (this.asked = (this.asked || 0) + 1);
      let text;
      if (from.startsWith("#")) {
        text = document.querySelector(from).textContent;
      } else {
        const address = from + (this.by === "seconds" ? `${from.includes("?") ? "&" : "?"}by=seconds` : "");
        try {
          const answer = await fetch(address, { headers: { "HX-Request": "true" }, credentials: "same-origin" });
          if (!answer.ok) throw new Error(String(answer.status));
          text = await answer.text();
        } catch {
          if (asked === this.asked) this.note.textContent = "The curves can't be loaded now; load the page again.";
          return;
        }
      }
      if (asked !== this.asked || !this.figure.isConnected) return;
      // What is read now isn't drawn anew for nothing.
      if (text === this.text) return;
      this.text = text;
      const began = performance.now();
      this.drawing = whole(JSON.parse(text));
      this.draw();
      this.figure.dataset.drawnMs = String(Math.round(performance.now() - began));
    }

    /* Colours of the page's palette, as the scheme has them now. */
    readColours() {
      const read = (name) => {
        this.probe.style.color = `var(--${name})`;
        return getComputedStyle(this.probe).color;
      };
      this.colours = { ink: read("ink"), faint: read("faint"), line: read("line"), ground: read("ground") };
      this.colours.series = [1, 2, 3, 4].map((number) => read(`series-${number}`));
    }

    colour(curve) { return this.colours.series[curve % COLOURS]; }
    faded(colour, share) { return `color-mix(in srgb, ${colour} ${share}%, transparent)`; }
    /* The held-out rows of a single curve have a colour of their own. */
    lookColour(curve) { return this.colour(this.drawing.curves.length === 1 ? curve + 1 : curve); }

    draw() {
      const { curves, panels, left_out: leftOut } = this.drawing;
      this.readColours();
      const before = this.focused();
      for (const plot of this.plots) plot.destroy();
      this.plots = [];
      this.space.replaceChildren();
      this.readout.textContent = "";
      this.drawnWidth = this.width();
      panels.forEach((panel, number) => this.plots.push(this.plot(panel, number === panels.length - 1)));
      const loss = panels.find((panel) => panel.key === "loss");
      this.logButton.hidden = !panels.some((panel) => canBeLog(panel));
      if (this.byButton) this.byButton.hidden = !curves.length && this.by === "step";
      this.wholeButton.hidden = !this.range;
      this.drawLegend();
      const parts = [];
      if (!curves.length) parts.push("No points yet: a training has them from its first step on.");
      else if (this.drawing.steps_a_mean > 1) parts.push(`Line: mean of up to ${this.drawing.steps_a_mean} steps. Band: the least and greatest of all steps.`);
      else parts.push("Line: each step.");
      if (curves.length > BANDED) parts.push("Point at a name to see its band.");
      if (panels.some((panel) => (panel.looks || []).length && panel.key === "loss")) parts.push("Points: held-out rows.");
      if (curves.length === 1 && curves[0].best_step !== undefined && loss) {
        parts.push(`Dashed: the best look, step ${curves[0].best_step}${curves[0].kept ? ", whose weights were kept" : ""}.`);
      }
      if (leftOut.length && curves.length) parts.push(`Without ${this.by === "seconds" ? "times" : "points"}: ${leftOut.join(", ")}.`);
      this.note.textContent = parts.join(" ");
      // Nothing of a picture stays where there is none.
      this.figure.toggleAttribute("data-empty", !curves.length && this.by === "step");
      this.focus(before);
    }

    /* Whoever reads by keyboard stays where they are when it is drawn anew. */
    focused() {
      const there = document.activeElement;
      const of = (list) => [...list].findIndex((one) => one.contains(there));
      return { plot: of(this.space.querySelectorAll(".curve-plot")), name: of(this.legend.children), column: this.column };
    }

    focus({ plot, name, column }) {
      this.column = undefined;
      this.space.querySelectorAll(".curve-plot")[plot]?.focus({ preventScroll: true });
      this.legend.children[name]?.firstChild.focus({ preventScroll: true });
      if (plot >= 0 && this.plots[plot] && column !== undefined && column !== null) this.moveTo(this.plots[plot], column);
    }

    moveTo(plot, column) {
      const to = Math.min(plot.data[0].length - 1, Math.max(0, column));
      plot.setCursor({ left: plot.valToPos(plot.data[0][to], "x"), top: plot.over.clientHeight / 2 });
    }

    plot(panel, isLast) {
      const { at, curves } = this.drawing;
      const lines = panel.lines || [], looks = panel.looks || [];
      const log = this.log && canBeLog(panel);
      const data = [at], series = [{}], bands = [];
      const places = []; // by curve: where its series begin
      for (const line of lines) {
        const place = data.length;
        const banded = line.band && line.band.length > 0;
        places[line.curve] = { place, banded, line };
        data.push(spread(at.length, line.columns, line.mean));
        series.push({
          stroke: () => this.colour(line.curve),
          width: curves.length > 16 ? 1.25 : 1.75,
          dash: DASHES[Math.floor(line.curve / COLOURS) % DASHES.length],
          points: { show: line.columns.length === 1, size: 5, fill: () => this.colour(line.curve) },
          show: !this.hidden.has(line.curve),
        });
        if (banded) {
          data.push(spread(at.length, line.band, line.high), spread(at.length, line.band, line.low));
          // Where a column has one step, the edges are all that is seen of it.
          const edge = {
            width: 0.75,
            stroke: () => this.faded(this.colour(line.curve), curves.length > 1 ? 25 : 45),
            points: { show: false },
            show: this.showsBand(line.curve),
          };
          series.push({ ...edge }, { ...edge });
          bands.push({ series: [place + 1, place + 2], fill: () => this.faded(this.colour(line.curve), curves.length > 1 ? 16 : 22) });
        }
      }
      if (at.length === 0 && looks.length) {
        data[0] = [...new Set(looks.flatMap((one) => one.at))].sort((a, b) => a - b);
      }
      if (data.length === 1) { data.push(data[0].map(() => null)); series.push({ show: false }); }
      const shown = (curve) => !this.hidden.has(curve);
      const extent = () => {
        let low = Infinity, high = -Infinity;
        const take = (values) => { for (const value of values) { if (log && value <= 0) continue; if (value < low) low = value; if (value > high) high = value; } };
        const inRange = (places, values) => this.range ? values.filter((_, n) => places[n] >= this.range[0] && places[n] <= this.range[1]) : values;
        for (const line of lines) {
          if (!shown(line.curve)) continue;
          take(inRange(line.columns.map((column) => at[column]), line.mean));
          if (this.showsBand(line.curve) && line.band) {
            const there = line.band.map((column) => at[column]);
            take(inRange(there, line.low)); take(inRange(there, line.high));
          }
        }
        for (const one of looks) if (shown(one.curve)) take(inRange(one.at, one.value));
        if (low > high) return log ? [0.1, 1] : [0, 1];
        if (log) { const room = (high / low) ** 0.04 || 1.1; return low === high ? [low / 2, high * 2] : [low / room, high * room]; }
        const room = (high - low) * 0.05 || Math.abs(high) * 0.1 || 1;
        return [low - room, high + room];
      };
      const ends = () => {
        let low = Infinity, high = -Infinity;
        const every = [at, ...this.drawing.panels.flatMap((one) => (one.looks || []).map((each) => each.at))];
        for (const places of every) for (const place of places) { if (place < low) low = place; if (place > high) high = place; }
        if (low > high) return [0, 1];
        return low === high ? [low - 1, high + 1] : [low, high];
      };
      const axis = {
        stroke: () => this.colours.faint,
        grid: { stroke: () => this.colours.line, width: 1 },
        ticks: { stroke: () => this.colours.line, width: 1, size: 4 },
        font: "12px system-ui, sans-serif",
      };
      const holder = element("div", "curve-panel");
      const title = panel.unit ? `${panel.title}, ${panel.unit}` : panel.title;
      holder.append(element("div", "curve-title", log ? `${title}, logarithmic` : title));
      const plotHolder = element("div", "curve-plot");
      plotHolder.tabIndex = 0;
      plotHolder.setAttribute("role", "group");
      plotHolder.setAttribute("aria-label", `${title} by ${this.by === "step" ? "step" : "seconds"}; arrow keys read its values`);
      holder.append(plotHolder);
      this.space.append(holder);
      const plot = new uPlot({
        width: Math.max(120, this.drawnWidth),
        height: (HEIGHTS[panel.key] || HEIGHT) + (isLast ? 22 : 0),
        legend: { show: false },
        scales: {
          x: { time: false, range: () => this.range || ends() },
          y: { distr: log ? 3 : 1, range: extent },
        },
        axes: [
          { ...axis, ...(this.by === "seconds" ? { incrs: INTERVALS, space: 70 } : {}), size: isLast ? 34 : 12, values: isLast ? (_, ticks) => ticks.map((tick) => (this.by === "step" ? (Number.isInteger(tick) ? tick.toLocaleString("en") : "") : duration(tick))) : (_, ticks) => ticks.map(() => "") },
          { ...axis, size: 58, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : digits(tick))), ...(log ? { filter: (_, ticks) => sparse(ticks) } : {}), space: 26 },
        ],
        series,
        bands,
        focus: { alpha: 0.25 },
        padding: [8, 26, 0, 0],
        cursor: {
          sync: { key: this.group, filters: { pub: (type) => type !== "mousedown" && type !== "mouseup" && type !== "dblclick", sub: () => true } },
          drag: { x: true, y: false, setScale: false },
          points: { show: lines.length <= 16, size: 6 },
          y: false,
        },
        hooks: {
          draw: [(u) => this.drawLooks(u, panel, looks)],
          setCursor: [(u) => this.read(u.cursor.idx)],
          setSelect: [(u) => {
            if (u.select.width < 4) return;
            const low = u.posToVal(u.select.left, "x"), high = u.posToVal(u.select.left + u.select.width, "x");
            u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
            this.zoom([low, high]);
          }],
        },
      }, data, plotHolder);
      plot.root.setAttribute("aria-hidden", "true");
      plot.over.addEventListener("dblclick", () => this.zoom(null));
      plotHolder.addEventListener("keydown", (event) => this.key(event, plot));
      plot.places = places;
      return plot;
    }

    showsBand(curve) {
      return !this.hidden.has(curve) && (this.drawing.curves.length <= BANDED || this.marked === curve);
    }

    zoom(range) {
      this.range = range;
      this.wholeButton.hidden = !range;
      for (const plot of this.plots) plot.setData(plot.data, true);
    }

    resize(width) {
      this.drawnWidth = width;
      for (const plot of this.plots) plot.setSize({ width: Math.max(120, width), height: plot.height });
    }

    /* Held-out rows lie between the columns of the lines, so they are drawn over them. */
    drawLooks(u, panel, looks) {
      const { curves } = this.drawing, ratio = devicePixelRatio || 1, pen = u.ctx;
      const x = (value) => u.valToPos(value, "x", true), y = (value) => u.valToPos(value, "y", true);
      pen.save();
      pen.beginPath();
      pen.rect(u.bbox.left - 6 * ratio, u.bbox.top - 6 * ratio, u.bbox.width + 12 * ratio, u.bbox.height + 12 * ratio);
      pen.clip();
      if (curves.length === 1 && curves[0].best_at !== undefined && panel.key === "loss") {
        pen.strokeStyle = this.lookColour(0);
        pen.lineWidth = ratio;
        pen.setLineDash([3 * ratio, 4 * ratio]);
        pen.beginPath();
        pen.moveTo(x(curves[0].best_at), u.bbox.top);
        pen.lineTo(x(curves[0].best_at), u.bbox.top + u.bbox.height);
        pen.stroke();
      }
      for (const one of looks) {
        if (this.hidden.has(one.curve)) continue;
        pen.globalAlpha = this.marked === null || this.marked === one.curve ? 1 : 0.25;
        pen.strokeStyle = pen.fillStyle = this.lookColour(one.curve);
        pen.lineWidth = 1.25 * ratio;
        pen.setLineDash([4 * ratio, 3 * ratio]);
        pen.beginPath();
        one.at.forEach((place, number) => pen[number ? "lineTo" : "moveTo"](x(place), y(one.value[number])));
        pen.stroke();
        pen.setLineDash([]);
        if (curves.length <= 16) one.at.forEach((place, number) => mark(pen, one.curve, x(place), y(one.value[number]), 3.5 * ratio));
      }
      pen.restore();
    }

    /* Names with what is under the cursor; each hides and shows its curve. */
    drawLegend() {
      const { curves } = this.drawing || { curves: [] };
      this.legend.replaceChildren();
      this.values = [];
      if (curves.length < 2) return;
      curves.forEach((curve, number) => {
        const item = element("li"), button = element("button", "curve-name");
        button.type = "button";
        button.setAttribute("aria-pressed", String(!this.hidden.has(number)));
        button.append(sample(this.colour(number), DASHES[Math.floor(number / COLOURS) % DASHES.length]), element("span", "ref", curve.name));
        const value = element("span", "curve-value");
        this.values[number] = value;
        button.append(value);
        button.addEventListener("click", () => {
          if (!this.hidden.delete(number)) this.hidden.add(number);
          button.setAttribute("aria-pressed", String(!this.hidden.has(number)));
          this.show();
        });
        for (const type of ["pointerenter", "focus"]) button.addEventListener(type, () => this.markOne(number));
        for (const type of ["pointerleave", "blur"]) button.addEventListener(type, () => this.markOne(null));
        item.append(button);
        this.legend.append(item);
      });
    }

    markOne(curve) {
      if (this.marked === curve) return;
      this.marked = curve;
      this.show();
    }

    show() {
      for (const plot of this.plots) {
        plot.batch(() => {
          let focused = null;
          plot.places.forEach((one, curve) => {
            if (!one) return;
            const shown = !this.hidden.has(curve), band = this.showsBand(curve);
            if (plot.series[one.place].show !== shown) plot.setSeries(one.place, { show: shown }, false);
            if (one.banded) {
              for (const edge of [one.place + 1, one.place + 2]) {
                if (plot.series[edge].show !== band) plot.setSeries(edge, { show: band }, false);
              }
            }
            if (curve === this.marked) focused = one.place;
          });
          plot.setSeries(focused, { focus: true }, false);
        });
        plot.redraw(true, true);
      }
    }

    /* What is at a column, in words. */
    read(column) {
      if (this.column === column) return;
      this.column = column;
      const { at, curves, panels } = this.drawing;
      if (column === null || column === undefined || at[column] === undefined) {
        this.readout.textContent = "";
        for (const value of this.values) value.textContent = "";
        return;
      }
      const place = at[column];
      const where = this.by === "step" ? `step ${Math.round(place).toLocaleString("en")}` : duration(place);
      if (curves.length === 1) {
        const parts = [];
        for (const panel of panels) {
          for (const line of panel.lines || []) parts.push(`${panel.title} ${valueAt(line, column, true)}`);
          for (const one of panel.looks || []) {
            const number = lastBefore(one.at, place);
            if (number >= 0) parts.push(`held-out ${panel.title.replace("held-out ", "")} ${digits(one.value[number])} at step ${one.step[number]}`);
          }
        }
        this.readout.textContent = [where, ...parts].join(" · ");
        return;
      }
      const first = panels[0];
      this.readout.textContent = first ? `${first.title} at ${where}` : where;
      const lines = new Map((first ? first.lines || [] : []).map((line) => [line.curve, line]));
      this.values.forEach((value, curve) => {
        const line = lines.get(curve);
        value.textContent = line ? valueAt(line, column, false) : "";
      });
    }

    key(event, plot) {
      const last = plot.data[0].length - 1;
      const now = plot.cursor.idx ?? -1;
      const far = event.shiftKey ? 10 : 1;
      const to = { ArrowRight: now + far, ArrowLeft: (now < 0 ? last + 1 : now) - far, Home: 0, End: last }[event.key];
      if (event.key === "Escape") {
        plot.setCursor({ left: -10, top: -10 });
        this.zoom(null);
        return;
      }
      if (to === undefined) return;
      event.preventDefault();
      this.readout.setAttribute("aria-live", "polite");
      this.moveTo(plot, to);
    }
  }

  /* What is sent leaves out what is so by default. */
  function whole(sent) {
    const drawing = { curves: [], panels: [], at: [], left_out: [], ...sent };
    const all = drawing.at.map((_, column) => column);
    drawing.panels = drawing.panels.map((panel) => ({
      lines: [], looks: [], ...panel,
      ...(panel.lines && {
        lines: panel.lines.map((line) => {
          const columns = line.columns || all;
          return { low: [], high: [], ...line, columns, band: line.low ? line.band || columns : [] };
        }),
      }),
    }));
    return drawing;
  }

  /* A column of the picture for each value; what has none in between is passed over, unless it is a gap. */
  function spread(length, columns, values) {
    const found = new Array(length).fill(undefined);
    const ways = [];
    for (let n = 1; n < columns.length; n++) ways.push(columns[n] - columns[n - 1]);
    const usual = ways.slice().sort((a, b) => a - b)[Math.floor(ways.length / 2)] || 1;
    columns.forEach((column, n) => {
      found[column] = values[n];
      if (n && column - columns[n - 1] > GAP * usual) found[column - 1] = null;
    });
    return found;
  }

  function canBeLog(panel) {
    if (panel.key === "lr") return false;
    const lines = panel.lines || [], looks = panel.looks || [];
    const every = [...lines.flatMap((line) => [line.mean, line.low || []]), ...looks.map((one) => one.value)];
    return every.some((values) => values.length) && every.every((values) => values.every((value) => value > 0));
  }

  /* Of the ticks of a logarithmic axis, those that have room: powers of ten, and 2 and 5 if there are few. */
  function sparse(ticks) {
    const power = (tick) => Math.abs(Math.log10(tick) - Math.round(Math.log10(tick))) < 1e-9;
    const powers = ticks.filter((tick) => tick > 0 && power(tick)).length;
    const first = (tick) => Math.round(tick / 10 ** Math.floor(Math.log10(tick) + 1e-9));
    return ticks.map((tick) => (tick > 0 && (power(tick) || powers < 1 || (powers < 3 && [2, 5].includes(first(tick)))) ? tick : null));
  }

  function lastBefore(places, place) {
    let found = -1;
    for (let n = 0; n < places.length && places[n] <= place + 0.5; n++) found = n;
    return found;
  }

  /* Where the place is in `places` that is nearest; -1 if it is too far away to be of the same steps. */
  function nearest(places, place) {
    const before = lastBefore(places, place), after = before + 1;
    const far = (n) => (n >= 0 && n < places.length ? Math.abs(places[n] - place) : Infinity);
    const found = far(before) <= far(after) ? before : after;
    const usual = places.length > 1 ? (places[places.length - 1] - places[0]) / (places.length - 1) : 1;
    return far(found) <= Math.max(1, GAP * usual) ? found : -1;
  }

  function valueAt(line, column, withBand) {
    const n = nearest(line.columns, column);
    if (n < 0) return "–";
    const mean = digits(line.mean[n]);
    const b = withBand && line.low.length ? nearest(line.band, column) : -1;
    return b < 0 || digits(line.low[b]) === digits(line.high[b]) ? mean : `${mean} (${digits(line.low[b])} to ${digits(line.high[b])})`;
  }

  /* A disc, a square, a diamond or a triangle: shapes tell curves apart without colours too. */
  function mark(pen, curve, x, y, size) {
    pen.beginPath();
    const shape = curve % 4;
    if (shape === 0) pen.arc(x, y, size, 0, 2 * Math.PI);
    else if (shape === 1) pen.rect(x - 0.9 * size, y - 0.9 * size, 1.8 * size, 1.8 * size);
    else {
      const corners = shape === 2 ? [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]] : [[0, -1.2], [1.2, 0.9], [-1.2, 0.9]];
      corners.forEach(([dx, dy], n) => pen[n ? "lineTo" : "moveTo"](x + dx * size, y + dy * size));
      pen.closePath();
    }
    pen.fill();
  }

  function sample(colour, dashes) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    made.setAttribute("width", "24");
    made.setAttribute("height", "10");
    made.setAttribute("aria-hidden", "true");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
    line.setAttribute("d", "M0 5h24");
    line.setAttribute("stroke", colour);
    line.setAttribute("stroke-width", "2.5");
    if (dashes.length) line.setAttribute("stroke-dasharray", dashes.join(" "));
    made.append(line);
    return made;
  }

  const begin = (root) => {
    for (const figure of root.querySelectorAll("figure[data-curves]:not([data-begun])")) {
      if (!window.uPlot) return;
      figure.dataset.begun = "";
      figure.curves = new Figure(figure);
    }
  };
  document.addEventListener("DOMContentLoaded", () => begin(document));
  document.addEventListener("htmx:after:swap", () => begin(document));
})();
