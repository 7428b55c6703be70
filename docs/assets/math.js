// Typesets formulas with the copy of MathJax beside this file, on pages that hold one.
window.MathJax = { tex: { inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]] },
                   options: { ignoreHtmlClass: ".*|", processHtmlClass: "arithmatex" } };
if (document.querySelector(".arithmatex")) {
  const script = document.createElement("script");
  script.src = new URL("tex-svg.js", document.currentScript.src);
  document.head.append(script);
}
