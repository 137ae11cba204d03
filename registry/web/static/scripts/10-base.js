"use strict";
/* Pages are whole without this; it only adds to them. */
(() => {
  /* Times in the reader's own zone; the one that was sent stays to be read in the title. */
  const zoned = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  const showTimes = (root) => {
    for (const each of root.querySelectorAll("time[datetime]:not([title])")) {
      each.title = each.textContent;
      each.textContent = zoned.format(new Date(each.dateTime));
    }
  };
  /* Commands are copied by a button that is only there where it works. */
  const addCopying = (root) => {
    if (!navigator.clipboard) return;
    for (const each of root.querySelectorAll("pre.command:not([data-copies])")) {
      each.dataset.copies = "";
      const button = document.createElement("button");
      button.type = "button";
      button.className = "copy";
      button.textContent = "Copy";
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(each.querySelector("code").textContent);
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      });
      each.append(button);
    }
  };
  const enrich = (root) => { showTimes(root); addCopying(root); };
  /* What an address points into is opened; browsers do so themselves only for what they find there. */
  const openTarget = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const around = target && target.closest("details");
    if (around && !around.open) { around.open = true; target.scrollIntoView(); }
  };
  window.addEventListener("hashchange", openTarget);
  document.addEventListener("DOMContentLoaded", () => {
    enrich(document);
    openTarget();
    /* The form of a code, if a program has opened its page. */
    document.querySelector("form[data-submits]")?.requestSubmit();
  });
  /* Before it is compared with what is there, so that what is the same stays as it is. */
  document.addEventListener("htmx:before:swap", ({ detail }) => { for (const task of detail.tasks) enrich(task.fragment); });
  document.addEventListener("htmx:after:swap", () => enrich(document));
})();
