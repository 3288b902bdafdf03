const rows = [...document.querySelectorAll("table.samples tbody tr")];
const filters = document.querySelector(".filters");
if (filters) {
  const [stage, verdict] = filters.querySelectorAll("select");
  const none = document.querySelector("#no-sample");
  const apply = () => {
    let shown = 0;
    for (const row of rows) {
      const fits = (!stage.value || row.dataset.stage === stage.value) && (!verdict.value || row.dataset.verdict === verdict.value);
      row.hidden = !fits;
      shown += fits;
    }
    none.hidden = shown > 0;
  };
  filters.hidden = false;
  filters.addEventListener("change", apply);
  apply();
}
