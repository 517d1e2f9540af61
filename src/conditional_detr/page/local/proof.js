// Run the network on the images of a proof, one after the other, and send what it finds.
import { model, raw } from "./backend.js";

const send = (path, content) => fetch(path, { method: "POST", body: JSON.stringify(content) });

async function prove() {
  await model();
  const { images, timed } = await (await fetch("proof/images")).json();
  for (let number = 0; number < images; number++) {
    const file = await (await fetch(`proof/${number}`)).blob();
    let result;
    try {
      result = await raw(file);
    } catch (error) {
      result = { error: error.message };
    }
    await send(`proof/${number}`, result);
  }
  for (const number of timed) {
    const file = await (await fetch(`proof/${number}`)).blob();
    const started = performance.now();
    await raw(file);
    await send(`proof/time/${number}`, { ms: performance.now() - started });
  }
  await send("proof/end", {});
}

prove().catch((error) => send("proof/end", { error: error.message }));
