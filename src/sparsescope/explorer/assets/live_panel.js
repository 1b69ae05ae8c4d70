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
  const TAIL = 160; // characters of the text that are shown before what was written
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

  // Three continuations of the same text, each after the end of that text.
  function written(told, asked, amount) {
    const end = [...asked.text].slice(-TAIL).join("");
    const before = (end.length < asked.text.length ? "…" : "") + live.plain(end);
    const row = (title, each, notes) => live.make("div", "written", [
      live.make("h3", "", title),
      live.make("p", "text", [live.make("span", "before", before), live.make("mark", "", each.pieces.map((piece) => live.make("bdi", "", live.plain(piece))))]),
      live.make("p", "note", notes),
    ]);
    // The model reads what was written once more without the push: the push itself does not count as activation.
    const read = (each) => `Read again without a push, the latent is active at ${live.percent(each.active)} of these tokens.`;
    const cost = (each) => `Predictions move by ${live.number(each.kl)} nats (KL) per token. ${read(each)}`;
    result.replaceChildren(live.make("div", "three", [
      row("As it is", told.plain, `The latent is active at ${live.percent(told.plain.active)} of these tokens.`),
      row(`With ${amount} added to its activation`, told.steered, cost(told.steered)),
      row("With a random direction, pushed as hard", told.control, cost(told.control)),
    ]));
    if (told.control.kl > told.steered.kl) {
      result.append(live.make("p", "note", "Here the random direction moves the predictions more than the latent does: what a push of this size changes need not be about this latent."));
    }
  }

  const value = (name) => {
    const field = find(name);
    const found = field.valueAsNumber;
    if (!Number.isFinite(found)) throw new Error(`Give a number in the field “${field.getAttribute("aria-label")}”.`);
    return found;
  };

  // What is asked and, once it is answered, how it is shown.
  function question(kind) {
    const asked = { dictionary, text: text.value };
    if (kind === "steer") {
      const [amount, tokens] = [value("amount"), value("new")];
      const body = { ...asked, latent: Number(latent), amount, new_tokens: tokens };
      return { path: "/api/steer", body, waiting: `Writing ${tokens} tokens three times…`, show: (told) => written(told, asked, amount) };
    }
    const edit = { latent: Number(latent), kind, ...(kind === "scale" ? { value: value("factor") } : {}) };
    const words = kind === "ablate" ? "Ablated" : `Scaled by ${edit.value}`;
    return { path: "/api/change", body: { ...asked, edits: [edit] }, waiting: "Reading the text…", show: (told) => changed(told, words) };
  }

  async function act(kind) {
    const mine = ++turn;
    result.setAttribute("aria-busy", "true");
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.act === kind)));
    try {
      const { path, body, waiting, show } = question(kind);
      const told = await live.post(path, body, (status) => (status.state === "ready" ? state.say(waiting) : state.show(status)));
      if (mine !== turn) return;
      show(told);
      state.say(`Done in ${told.seconds.toFixed(1)} s.`);
    } catch (error) {
      if (mine === turn) state.fail(error);
    } finally {
      if (mine === turn) result.removeAttribute("aria-busy");
    }
  }
  buttons.forEach((button) => button.addEventListener("click", () => act(button.dataset.act)));
})();
