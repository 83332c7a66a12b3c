import { render } from "preact";
import { App } from "./app";
import { followLinks } from "./router";

document.addEventListener("click", followLinks);
render(<App />, document.getElementById("app")!);
