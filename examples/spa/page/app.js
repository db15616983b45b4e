import { API } from "./config.js";

const REASONS = {
  no_session: "Please sign in.",
  anonymous: "Please sign in.",
  ended: "Your session has expired. Please sign in again.",
};

const signInForm = document.querySelector("#sign-in");
const notebook = document.querySelector("#notebook");
const addForm = document.querySelector("#add");

// Sends the session cookie, and keeps the one that comes back.
async function call(method, path, data) {
  const options = { method, credentials: "include" };
  if (data) {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(Object.fromEntries(data));
  }
  let response;
  try {
    response = await fetch(API + path, options);
  } catch {
    // also where the API does not allow this origin: the browser hides the response
    return say("The notebook cannot be reached.");
  }
  const body = response.status === 204 ? {} : await response.json();
  if (response.ok) return body;
  if (response.status === 401) showSignIn(REASONS[body.reason] ?? body.detail);
  else say(body.detail);
}

function say(text) {
  document.querySelector("[role=status]").textContent = text;
}

function showSignIn(text) {
  say(text);
  notebook.hidden = true;
  signInForm.hidden = false;
}

function show(notes) {
  say("");
  signInForm.hidden = true;
  notebook.hidden = false;
  // as text, so that a note is never read as HTML
  notebook.querySelector("ul").replaceChildren(
    ...notes.map((note) => Object.assign(document.createElement("li"), { textContent: note })),
  );
}

async function load() {
  const body = await call("GET", "/notes");
  if (body) show(body.notes);
  return body;
}

signInForm.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!(await call("POST", "/sign-in", new FormData(signInForm)))) return;
  signInForm.reset();
  if (!(await load())) say("Your browser did not keep the session cookie.");
});

addForm.addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = await call("POST", "/notes", new FormData(addForm));
  if (!body) return;
  addForm.reset();
  show(body.notes);
});

document.querySelector("#sign-out").addEventListener("click", async () => {
  if (await call("POST", "/sign-out")) showSignIn("You are signed out.");
});

await load();
