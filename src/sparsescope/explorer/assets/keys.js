// Keys on every page: j and k from item to item, / to the search, ? for help, g and a letter to a page, u up.
(() => {
  "use strict";
  const pages = [...document.querySelectorAll("nav [data-go]")];
  const search = document.getElementById("search");
  let going = 0; // when g was pressed

  const items = () => [...document.querySelectorAll("[data-item]")].filter((item) => item.getClientRects().length);
  const link = (item) => (item.matches("a[href]") ? item : item.querySelector("a[href]"));
  const current = () => document.activeElement?.closest("[data-item]");

  function move(step) {
    const all = items();
    const turn = document.querySelector(step > 0 ? "a[rel~=next]" : "a[rel~=prev]");
    if (turn && !current()) return turn.click();
    if (!all.length) return undefined;
    const at = all.indexOf(current());
    const next = at < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + step));
    const item = all[next];
    if (!item.hasAttribute("tabindex") && !item.matches("a, button, input")) item.tabIndex = -1;
    item.focus({ preventScroll: true });
    item.scrollIntoView({ block: "nearest" });
    return undefined;
  }

  function go(letter) {
    pages.find((page) => page.dataset.go === letter)?.click();
  }

  const keys = {
    j: () => move(1),
    k: () => move(-1),
    "/": () => { search?.focus(); search?.select(); },
    "?": () => (dialog.open ? dialog.close() : dialog.showModal()),
    u: () => document.querySelector("a[rel~=up]")?.click(),
    g: () => { going = performance.now(); },
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const inField = event.target.matches("input, textarea, select, [contenteditable]");
    if (event.key === "Escape") {
      if (inField) event.target.blur();
      return;
    }
    if (inField || (dialog.open && event.key !== "?")) return;
    if (event.key === "Enter" && event.target.matches("[data-item]:not(a)")) {
      link(event.target)?.click();
      return;
    }
    const waiting = performance.now() - going < 1200;
    if (waiting && going) {
      going = 0;
      event.preventDefault();
      go(event.key);
    } else if (keys[event.key]) {
      event.preventDefault();
      keys[event.key]();
    }
  });

  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  const told = [
    ["j k", "next and previous item, or latent"],
    ["Enter", "open the item"],
    ["/", "search"],
    ["u", "up: from a latent to its dictionary, from there to the run"],
    ...pages.map((page) => [`g ${page.dataset.go}`, `go to: ${page.textContent.trim()}`]),
    ["?", "show these keys"],
    ["Esc", "close, or leave a field"],
  ];
  const rows = told.map(([names, meaning]) => {
    const shown = names.split(" ").flatMap((name) => [element("kbd", { textContent: name }), " "]);
    return element("div", {}, element("dt", {}, ...shown), element("dd", { textContent: meaning }));
  });
  const close = element("button", { textContent: "Close" });
  const dialog = element("dialog", { id: "keys" }, element("h2", { textContent: "Keys" }), element("dl", {}, ...rows), close);
  dialog.ariaLabel = "Keys";
  document.body.append(dialog);
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  const help = element("button", { type: "button", title: "Keys", textContent: "?" });
  help.addEventListener("click", () => dialog.showModal());
  document.querySelector(".keys-place")?.append(help);
})();
