// Pictures from the clipboard go where dropped ones go.
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
  const input = document.querySelector("#pictures input[type=file]");
  if (!files.length || !input) return;
  event.preventDefault();
  const transfer = new DataTransfer();
  for (const file of files) transfer.items.add(file);
  input.files = transfer.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
});

// On a narrow screen the progress is below what was pressed.
document.addEventListener("click", (event) => {
  const results = document.querySelector("#results");
  if (!event.target.closest?.("#start") || !results) return;
  if (results.getBoundingClientRect().top > window.innerHeight / 2) results.scrollIntoView({ behavior: "smooth" });
});
