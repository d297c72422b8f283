// What scrolls can be reached by keyboard, also what was folded when the page opened:
// the theme looks only once, and takes folded code out of the tab order for good.
// (Seen in pydata-sphinx-theme 0.17.1, addTabStopsToScrollableElements.)
addEventListener("load", () => {
  const scrolls = (e) => e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight;
  const observer = new ResizeObserver((entries) => {
    for (const { target } of entries) target.tabIndex = scrolls(target) ? 0 : -1;
  });
  document
    .querySelectorAll("main [role=group], main figure.wide, main div.math")
    .forEach((e) => observer.observe(e));
});
