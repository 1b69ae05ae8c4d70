// The panel on a latent's page: ablate, scale and steer it on a text.
(() => {
  "use strict";
  const panel = document.querySelector("[data-live]");
  const live = window.sparsescopeLive;
  if (!panel || !live) return;
  const find = (name) => panel.querySelector(`[data-${name}]`);
  const { dictionary, latent } = panel.dataset;
  const [text, result] = [find("text"), find("result")];
  const state = live.loading(find("loading"));
  const buttons = [...panel.querySelectorAll("[data-act]")];
  let turn = 0; // an answer that comes after the next question is left out

  text.addEventListener("input", () => {
    const link = find("prompt");
    const address = new URL(link.href);
    address.searchParams.set("text", text.value);
    link.href = address;
  });

  function changed(told, words) {
    const kls = told.tokens.map((each) => each.kl);
    const strip = live.make("div", "live-tokens", [], { role: "group", "aria-label": "Tokens of the text" });
    const place = live.make("div", "comparison");
    const at = live.make("p", "note", "");
    const show = (number) => {
      all.forEach((button, other) => button.setAttribute("aria-pressed", String(other === number)));
      at.replaceChildren(`${words}. The line below a token says how much what follows it changed. After `, live.token(told.tokens[number].text), ":");
      live.comparison(place, told.tokens[number], true);
      live.reveal(strip, all[number]);
    };
    const all = live.tokens(strip, told.tokens.map((each) => each.text), show);
    live.underline(all, kls);
    result.replaceChildren(strip, at, place);
    show(kls.indexOf(Math.max(...kls)));
  }

  function written(told, amount) {
    const row = (title, each, note) => live.make("div", "written", [
      live.make("h3", "", title),
      live.make("p", "text", each.pieces.map((piece) => live.make("bdi", "", live.plain(piece)))),
      live.make("p", "note", note),
    ]);
    const cost = (each) => `${live.number(each.kl)} nats of KL per token; active at ${live.percent(each.active)} of the new tokens`;
    result.replaceChildren(live.make("div", "three", [
      row("As it is", told.plain, `active at ${live.percent(told.plain.active)} of the new tokens`),
      row(`Steered by ${amount}`, told.steered, cost(told.steered)),
      row("A random direction, pushed as hard", told.control, cost(told.control)),
    ]));
  }

  const value = (name) => {
    const field = find(name);
    const found = field.valueAsNumber;
    if (!Number.isFinite(found)) throw new Error(`Give a number in the field “${field.getAttribute("aria-label") ?? "new tokens"}”.`);
    return found;
  };

  async function act(kind) {
    const mine = ++turn;
    panel.setAttribute("aria-busy", "true");
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.act === kind)));
    try {
      const asked = { dictionary, text: text.value };
      if (kind === "steer") {
        const amount = value("amount");
        const told = await live.post("/api/steer", { ...asked, latent: Number(latent), amount, new_tokens: value("new") }, state.show);
        if (mine === turn) written(told, amount);
      } else {
        const edit = { latent: Number(latent), kind, ...(kind === "scale" ? { value: value("factor") } : {}) };
        const told = await live.post("/api/change", { ...asked, edits: [edit] }, state.show);
        if (mine === turn) changed(told, kind === "ablate" ? "Ablated" : `Scaled by ${edit.value}`);
      }
    } catch (error) {
      if (mine === turn) state.fail(error);
    } finally {
      if (mine === turn) panel.removeAttribute("aria-busy");
    }
  }
  buttons.forEach((button) => button.addEventListener("click", () => act(button.dataset.act)));
})();
