// Choosing another dictionary with the mouse compares at once. With the keyboard, where a select changes at every
// arrow key, the button does.
(() => {
  "use strict";
  const form = document.querySelector("form.comparing");
  if (!form) return;
  let typed = false;
  form.addEventListener("keydown", () => { typed = true; });
  form.addEventListener("pointerdown", () => { typed = false; });
  form.addEventListener("change", () => {
    const { first, second } = form.elements;
    if (!typed && first.value && second.value && first.value !== second.value) form.submit();
  });
})();
