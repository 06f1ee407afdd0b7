/**
 * Questions to the server, how far the answer is, and what went wrong.
 *
 * after(): called when a firm question is answered: maps that are looked at meanwhile may be asked for again.
 */
const makeAsking = (after) => {
  const find = (id) => document.getElementById(id);

  /** The answer to a question; slow ones tell on the way how far they are. */
  async function ask(what, question, { signal, onProgress } = {}) {
    const headers = { "content-type": "application/json" };
    const answer = await fetch(`api/${what}`, { method: "POST", headers, body: JSON.stringify(question), signal });
    const [reader, decoder] = [answer.body.getReader(), new TextDecoder()];
    let [text, last] = ["", {}];
    const read = (line) => {
      last = JSON.parse(line);
      if ("progress" in last) onProgress?.(last.progress);
    };
    for (;;) {
      const { done, value } = await reader.read();
      const lines = (text + decoder.decode(value, { stream: !done })).split("\n");
      text = done ? "" : lines.pop();
      lines.filter(Boolean).forEach(read);
      if (done) break;
    }
    if (last.error || !answer.ok) throw new Error(last.error ?? `the server answered ${answer.status}`);
    return last;
  }

  /**
   * One question at a time is waited for; another one takes its place. firm: maps that are looked at meanwhile come after it.
   * quiet: nobody waits for the answer, and nothing is told of it.
   */
  let waiting = null;

  async function waitFor(what, kind, question, { firm = false, quiet = false } = {}) {
    stop();
    const mine = { controller: new AbortController(), what, firm };
    waiting = mine;
    const tell = (share) => waiting === mine && !quiet && showWork(mine, share);
    setTimeout(() => tell(null), 200);
    try {
      return await ask(kind, question, { signal: mine.controller.signal, onProgress: tell });
    } finally {
      if (waiting === mine) stop(false);
      if (firm) setTimeout(after, 0);
    }
  }

  function stop(abort = true) {
    if (abort) waiting?.controller.abort();
    waiting = null;
    find("working").hidden = true;
  }

  function showWork({ what }, share) {
    find("working").hidden = false;
    if (find("working-what").textContent !== what) find("working-what").textContent = what;
    if (share) find("working-share").value = share;
    else find("working-share").removeAttribute("value");
  }

  function trouble(error) {
    const gone = error?.name === "AbortError";
    const said = error instanceof TypeError ? "The server does not answer. Is it still running?" : error?.message;
    find("trouble").hidden = !error || gone;
    find("trouble").textContent = find("trouble").hidden ? "" : said;
  }

  return { ask, waitFor, stop, trouble, waiting: () => waiting };
};
