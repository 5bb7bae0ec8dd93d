// Elements, and lists of many rows of which only those exist that are seen.

// el makes an element. Text is text: nothing that a cluster says is ever read as HTML.
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== undefined && value !== null) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

export const height = 30; // of a row, as the style sheet has it

// seen returns the first row that is to exist and the one behind the last.
export function seen(top, viewport, count) {
  const around = 6;
  const first = Math.max(0, Math.floor(top / height) - around);
  return [Math.min(first, count), Math.min(count, Math.ceil((top + viewport) / height) + around)];
}

// step returns the row that a key leads to, or -1 if it leads nowhere.
export function step(key, at, count, page) {
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: count - 1 }[key];
  return to === undefined ? -1 : Math.min(count - 1, Math.max(0, to));
}

let lists = 0;
const chosen = new Map(); // the row of a list, which is made anew when it changes

// rows shows rows of cells, of which the arrow keys choose one and Enter or a click opens it.
export function rows(label, head, body, open) {
  const id = `rows-${lists++}`, most = 12; // rows at once
  let at = Math.min(chosen.get(label) || 0, body.length - 1);
  const inner = el("div", { role: "presentation" });
  inner.style.height = `${body.length * height}px`;
  const list = el("div", { class: `list columns-${head.length}`, role: "listbox", tabindex: "0", "data-key": label, "aria-label": `${label}: ${body.length}; ${head.join(", ")}` }, inner);
  list.style.height = `${Math.min(body.length, most) * height + 2}px`;
  const draw = () => {
    const [first, end] = seen(list.scrollTop, list.clientHeight || most * height, body.length);
    inner.replaceChildren();
    for (let i = first; i < end; i++) {
      const row = el("div", {
        role: "option", id: `${id}-${i}`, class: open ? "opens" : "", title: body[i].join(" · "),
        "aria-selected": String(i === at), "aria-setsize": body.length, "aria-posinset": i + 1,
        onclick: () => { choose(i); if (open) open(i); },
      }, body[i].map((cell) => el("span", {}, cell)));
      row.style.top = `${i * height}px`;
      inner.append(row);
    }
    list.setAttribute("aria-activedescendant", `${id}-${at}`);
  };
  const choose = (i) => {
    at = i;
    chosen.set(label, i);
    const shown = list.clientHeight || most * height;
    if (i * height < list.scrollTop) list.scrollTop = i * height;
    if ((i + 1) * height > list.scrollTop + shown) list.scrollTop = (i + 1) * height - shown;
    draw();
  };
  list.addEventListener("scroll", draw, { passive: true });
  list.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && open) {
      event.preventDefault();
      open(at);
      return;
    }
    const to = step(event.key, at, body.length, 10);
    if (to >= 0) {
      event.preventDefault();
      choose(to);
    }
  });
  draw();
  return el("div", { class: "rows wide" },
    el("div", { class: `head columns-${head.length}`, "aria-hidden": "true" }, head.map((text) => el("span", {}, text))), list);
}
