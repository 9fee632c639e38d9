// Comforts of the forms. Each of them works without this file.
const fault = document.querySelector("[aria-invalid]") ?? document.querySelector("[data-focus]");
if (fault) {
  fault.closest("details")?.setAttribute("open", "");
  fault.focus();
}

// A saved target makes the typed one beside it needless.
function choose(list) {
  for (const typed of document.querySelectorAll(`[data-typed-for="${list.id}"]`)) {
    typed.disabled = list.value !== "";
    typed.closest("[data-field]").hidden = typed.disabled;
  }
}
for (const list of document.querySelectorAll("#ping_target, #speedtest_target")) {
  choose(list);
  list.addEventListener("change", () => choose(list));
}

// A part that is not asked for is dimmed.
for (const box of document.querySelectorAll(".part legend input")) {
  const dim = () => box.closest(".part").classList.toggle("is-unused", !box.checked);
  dim();
  box.addEventListener("change", dim);
}

document.querySelector("[data-start]")?.addEventListener("submit", (event) => {
  const button = event.target.querySelector("button");
  button.classList.add("is-loading");
  // Back from the next page, the button must not still be busy.
  addEventListener("pageshow", () => button.classList.remove("is-loading"), { once: true });
});

document.addEventListener("click", async (event) => {
  const at = (selector) => event.target.closest?.(selector);
  const opener = at("[data-dialog]");
  if (opener) {
    event.preventDefault();
    document.getElementById(opener.dataset.dialog).showModal();
  }
  const use = at("[data-use-probe]");
  const list = document.querySelector("[data-probes]");
  if (use && list) {
    event.preventDefault();
    list.value = use.dataset.useProbe;
    document.getElementById("start").scrollIntoView({ block: "start" });
    list.focus();
  }
  if (at("[data-close]")) {
    event.preventDefault();
    at("[data-note]").remove();
    document.getElementById("main").focus();
  }
  const copy = at("[data-copy]");
  if (copy) {
    const text = document.getElementById(copy.dataset.copy);
    try {
      await navigator.clipboard.writeText(text.textContent);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text);
      copy.textContent = "Selected: press Ctrl+C";
    }
  }
});

function reveal() {
  for (const copy of document.querySelectorAll("[data-copy][hidden]")) copy.hidden = false;
}
reveal();
document.body.addEventListener("htmx:afterSettle", reveal);
