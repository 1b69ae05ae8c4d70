addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("textarea, input[name=name]")) return;
  const choice = document.querySelector(`input[data-key="${CSS.escape(event.key)}"]`);
  if (choice) {
    choice.checked = true;
    choice.focus();
    event.preventDefault();
  }
});
