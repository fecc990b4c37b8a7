// The page: shows a cluster to whoever has a token for it.
//
// Start at `route`: the address after `#` names a view, and a view is a few panels that are loaded again and again.
//
// Invariants:
// * every request goes through `open`, and every path stands in `API`;
// * what the server says becomes text, never markup;
// * the token lies in this tab's sessionStorage and is sent to this server alone;
// * nothing new is asked for while the page is hidden.
//
// Not here: what somebody may see. The server decides that for each request, and a panel shows what it says.
"use strict";

// Method and path. `{scope}` is a namespace or all, `{/name}` one object or all, `{?a,b}` what of these is given.
const API = {
  whoAmI: "POST /apis/authentication.k8s.io/v1/selfsubjectreviews",
  namespaces: "GET /api/v1/namespaces?limit=500",
  nodes: "GET /api/v1/nodes{/name}?includeObject=Object&limit=500",
  nodeUsage: "GET /apis/metrics.k8s.io/v1beta1/nodes",
  pods: "GET /api/v1{scope}/pods{/name}?limit=500",
  podsOn: "GET /api/v1/pods?fieldSelector=spec.nodeName%3D{name}&limit=500",
  podsOf: "GET /api/v1{scope}/pods?labelSelector={labels}&limit=500",
  podLog: "GET /api/v1/namespaces/{namespace}/pods/{name}/log{?container,previous,follow,timestamps,tailLines}",
  deployments: "GET /apis/apps/v1{scope}/deployments{/name}?limit=500",
  statefulsets: "GET /apis/apps/v1{scope}/statefulsets{/name}?limit=500",
  daemonsets: "GET /apis/apps/v1{scope}/daemonsets{/name}?limit=500",
  jobs: "GET /apis/batch/v1{scope}/jobs{/name}?limit=500",
  cronjobs: "GET /apis/batch/v1{scope}/cronjobs{/name}?limit=500",
  events: "GET /api/v1{scope}/events?fieldSelector=involvedObject.kind%3D{kind},involvedObject.name%3D{name}&limit=500",
  logs: "GET /apis/telemetry.skerry.dev/v1{scope}/logs{?pod,container,node,ofNodes,grep,sinceTime,tailLines,continue}",
  series: "GET /apis/telemetry.skerry.dev/v1{scope}/series?name={series}{&node,pod,sinceTime,step}",
};

// Answers as `kubectl get` prints them, so that the page and kubectl never disagree on a pod's status.
const TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io";

// What the workloads view shows, in this order: where in API, and kind.
const WORKLOADS = [
  ["deployments", "Deployment"],
  ["statefulsets", "StatefulSet"],
  ["daemonsets", "DaemonSet"],
  ["jobs", "Job"],
  ["cronjobs", "CronJob"],
  ["pods", "Pod"],
];

// What is said beside the server's own words.
const REFUSALS = {
  401: "The server does not believe this token: it is wrong, it has expired, or its account is gone.",
  403: "The account of this token may not see this.",
};

// What holds a rollout whose limit is reached, be it by a board that was dead before.
const USED_UP =
  "This uses up maxUnavailable: no other node is updated until it is available again, its Node is deleted, " +
  "or the number is raised.";

// The view is loaded again after so long.
const REFRESH_MS = 5000;

// A log on the page forgets its beginning when it is so long.
const LOG_CHARS_MAX = 1 << 20;
// So many lines of a stored log are shown at first; what comes follows.
const LOG_LINES = 1000;

// What plots can show: name, and for how long.
const RANGES = [
  ["1 hour", 3600],
  ["6 hours", 6 * 3600],
  ["1 day", 86400],
  ["1 week", 7 * 86400],
];
// What is plotted of each: title, series after the name of what it is of, unit, whether it counts up.
const PLOTS = {
  node: [
    ["CPU, cores", "cpu_usage_seconds_total", cores, true],
    ["Memory", "memory_working_set_bytes", bytes, false],
    ["Disk used", "filesystem_used_bytes", bytes, false],
    ["Temperature, °C", "thermal_zone_temp", (number) => number.toFixed(0), false],
  ],
  pod: [
    ["CPU, cores", "cpu_usage_seconds_total", cores, true],
    ["Memory", "memory_working_set_bytes", bytes, false],
    ["Received from the network a second", "network_receive_bytes_total", bytes, true],
    ["Sent to the network a second", "network_transmit_bytes_total", bytes, true],
    ["Read from disks a second", "fs_reads_bytes_total", bytes, true],
    ["Written to disks a second", "fs_writes_bytes_total", bytes, true],
  ],
  container: [
    ["CPU, cores", "cpu_usage_seconds_total", cores, true],
    ["Memory", "memory_working_set_bytes", bytes, false],
    ["Read from disks a second", "fs_reads_bytes_total", bytes, true],
    ["Written to disks a second", "fs_writes_bytes_total", bytes, true],
  ],
};
// A line has so many points at most, and a plot so many lines: the greatest of those that are there.
const PLOT_POINTS = 240;
const PLOT_LINES_MAX = 12;
// So many colours has dashboard.css.
const COLOURS = 8;

const VIEWS = { nodes: nodesView, workloads: workloadsView, logs: logsView, plots: plotsView, object: objectView };
const MENU = [
  ["nodes", "Nodes"],
  ["workloads", "Workloads"],
  ["logs", "Logs"],
  ["plots", "Plots"],
];

// ---- asking ----

// An answer that is none: its HTTP status, and why.
class Refused extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

function fill(path, values) {
  const escape = encodeURIComponent;
  const query = (mark, keys) => {
    const given = keys.filter((key) => values[key]);
    return given.length > 0 ? mark + given.map((key) => `${key}=${escape(values[key])}`).join("&") : "";
  };
  return path
    .replace("{scope}", values.namespace ? "/namespaces/" + escape(values.namespace) : "")
    .replace("{/name}", values.name ? "/" + escape(values.name) : "")
    .replace(/{([?&])([^}]*)}/, (_, mark, keys) => query(mark, keys.split(",")))
    .replace(/{(\w+)}/g, (_, key) => escape(values[key] ?? ""));
}

// The server's clock: a board's may differ from the browser's.
let ahead_ms = 0;
const now = () => Date.now() + ahead_ms;
const ago = (seconds) => new Date(now() - seconds * 1000).toISOString();

// The server's answer, once it is no refusal.
async function open(what, values = {}, accept = "application/json", signal = view.signal) {
  const [method, path] = what.split(" ");
  const response = await fetch(fill(path, values), {
    method,
    signal,
    headers: {
      Authorization: "Bearer " + sessionStorage.getItem("token"),
      Accept: accept,
      "Content-Type": "application/json",
    },
    body: method === "POST" ? "{}" : undefined,
    // The token says who asks: no certificate of the browser's, no cookie.
    credentials: "omit",
    cache: "no-store",
    redirect: "error",
  });
  ahead_ms = (Date.parse(response.headers.get("Date")) || Date.now()) - Date.now();
  if (response.ok) return response;
  const status = await response.json().catch(() => ({}));
  throw new Refused(response.status, [REFUSALS[response.status], status.message].filter(Boolean).join(" "));
}

const json = async (what, values, accept) => (await open(what, values, accept)).json();
const table = (what, values) => json(what, values, TABLE);

// ---- building ----

// An element. Strings among its children become text.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const link = (text, ...steps) => make("a", { href: "#/" + steps.map(encodeURIComponent).join("/") }, text);
const wrong = (text) => make("p", { class: "wrong" }, text);
const quiet = (text) => make("p", { class: "quiet" }, text);

// Headings, and rows of cells: text, an element, or `{ text, class }`. Each cell knows its heading, for narrow screens.
function grid(headings, rows) {
  const cell = (it, index) => {
    const content = it instanceof Node ? it : String(it?.text ?? it ?? "");
    return make("td", { class: it?.class ?? "", "data-heading": headings[index] }, content);
  };
  const head = make("tr", {}, ...headings.map((heading) => make("th", {}, heading)));
  const body = rows.map((row) => make("tr", {}, ...row.map(cell)));
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
}

// A part of a view. `load` makes its content; what goes wrong in it is shown in its place and harms no other.
function panel(title, load) {
  const body = make("div", {}, quiet("…"));
  const refresh = async () => {
    let content;
    try {
      content = [await load()].flat();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.code === 401) return leave(error.message);
      content = [wrong(error.message)];
    }
    // What is the same stays, with what its reader has selected in it and where he has scrolled to.
    const isSame = content.every((it, index) => body.childNodes[index]?.isEqualNode(it));
    if (!isSame || content.length !== body.childNodes.length) body.replaceChildren(...content);
  };
  return { element: make("section", {}, make("h2", {}, title), body), refresh };
}

// ---- words ----

const WELL = /^(Running|Ready|Active|Bound|Complete[d]?|Succeeded|True)$/;
const UNDER_WAY = /^(Pending|ContainerCreating|PodInitializing|Init:\d.*|Terminating|Suspended)$/;

function status(text) {
  const word = text.split(",")[0];
  return {
    text,
    class: WELL.test(word) ? (word === text ? "well" : "wrong") : UNDER_WAY.test(word) ? "quiet" : "wrong",
  };
}

// A quantity as Kubernetes writes it, as a number.
function quantity(text) {
  const suffixes = {
    n: 1e-9,
    u: 1e-6,
    m: 1e-3,
    k: 1e3,
    M: 1e6,
    G: 1e9,
    T: 1e12,
    P: 1e15,
    E: 1e18,
    Ki: 2 ** 10,
    Mi: 2 ** 20,
    Gi: 2 ** 30,
    Ti: 2 ** 40,
    Pi: 2 ** 50,
    Ei: 2 ** 60,
  };
  const [, number, suffix] = /^([-+.\deE]*\d\.?)([a-zA-Z]*)$/.exec(text ?? "") ?? [];
  return Number(number) * (suffix ? suffixes[suffix] : 1);
}

function cores(number) {
  if (number >= 0.995) return number.toFixed(2);
  return (number * 1000).toFixed(number > 0 && number < 0.00995 ? 1 : 0) + "m";
}

function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; number >= 1024 && unit < units.length - 1; unit += 1) number /= 1024;
  return number.toFixed(number < 10 && unit > 0 ? 1 : 0) + " " + units[unit];
}

const percent = (part, whole) => (whole > 0 ? ` (${Math.round((100 * part) / whole)} %)` : "");
const moment = (text) => (text ? new Date(text).toLocaleString() : "an unknown time");

// ---- views ----

// A table of the server's as one of ours: its columns of priority 0, the namespace before them if wanted.
function shown(answer, kind, withNamespace) {
  const columns = answer.columnDefinitions
    .map((column, at) => ({ ...column, at }))
    .filter((column) => column.priority === 0);
  const rows = (answer.rows ?? []).map((row) => {
    const { name, namespace: its } = row.object.metadata;
    const cells = columns.map(({ name: column, at }) => {
      const text = String(row.cells[at] ?? "");
      if (column === "Name") return link(name, "object", kind, its, name);
      return column === "Status" ? status(text) : text;
    });
    return withNamespace ? [its, ...cells] : cells;
  });
  if (rows.length === 0) return [quiet("none")];
  const headings = columns.map((column) => column.name);
  const more = answer.metadata.continue ? [quiet("There are more; choose a namespace.")] : [];
  return [grid(withNamespace ? ["Namespace", ...headings] : headings, rows), ...more];
}

function workloadsView() {
  const namespace = chosenNamespace();
  return WORKLOADS.map(([what, kind]) =>
    panel(kind + "s", async () => shown(await table(API[what], { namespace }), kind, !namespace)),
  );
}

// What is wrong with a node, by its conditions: Ready should be True, every other one False. Of a node not heard of
// all are Unknown, for the one reason.
function troubles(node) {
  const conditions = node.status?.conditions ?? [];
  const isUnheard = conditions.some(({ type, status }) => type === "Ready" && status === "Unknown");
  return conditions
    .filter(({ type, status }) => {
      if (type === "Ready") return status !== "True";
      return status === "True" || (status === "Unknown" && !isUnheard);
    })
    .map(({ type, status, reason, message, lastTransitionTime }) => {
      const why = [reason, message].filter(Boolean).join(": ");
      return `${type} is ${status} since ${moment(lastTransitionTime)}${why && ": " + why}`;
    });
}

// Use of each node by its name. A cluster without the collector has none, which is no reason to show no nodes.
async function usages() {
  try {
    const { items } = await json(API.nodeUsage);
    return { of: new Map(items.map((item) => [item.metadata.name, item.usage])), why: "" };
  } catch (error) {
    if (!(error instanceof Refused) || error.code === 401) throw error;
    return { of: new Map(), why: error.message };
  }
}

async function nodeRows() {
  const [answer, used] = await Promise.all([table(API.nodes), usages()]);
  const cell = (row, name) =>
    String(row.cells[answer.columnDefinitions.findIndex((column) => column.name === name)] ?? "");
  const rows = (answer.rows ?? []).map((row) => {
    const { metadata, status: its } = row.object;
    const usage = used.of.get(metadata.name);
    const use = (key, form) => {
      const whole = quantity(its.allocatable?.[key]);
      const part = quantity(usage?.[key]);
      if (usage) return form(part) + percent(part, whole);
      return Number.isNaN(whole) ? "?" : "? of " + form(whole);
    };
    const wrongs = troubles(row.object);
    return [
      link(metadata.name, "object", "Node", "", metadata.name),
      status(cell(row, "Status")),
      cell(row, "Roles"),
      cell(row, "Age"),
      cell(row, "Version"),
      use("cpu", cores),
      use("memory", bytes),
      { text: wrongs.join("; "), class: "wrong text" },
    ];
  });
  const grids = grid(["Name", "Status", "Roles", "Age", "Version", "CPU", "Memory", "Conditions"], rows);
  return used.why ? [grids, quiet("What nodes use is not known: " + used.why)] : [grids];
}

function nodesView() {
  return [panel("Nodes", nodeRows), panel("Rollouts of DaemonSets", rollouts)];
}

// ---- rollouts ----

const isReady = (object) =>
  object?.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True") ?? false;
const isControlledBy = (pod, owner) =>
  pod.metadata.ownerReferences?.some(({ uid }) => uid === owner.metadata.uid) ?? false;

// How many nodes of a DaemonSet may lack an available pod at a time.
function maxUnavailable(set) {
  const rolling = set.spec.updateStrategy?.rollingUpdate ?? {};
  const value = rolling.maxUnavailable ?? 1;
  const number = String(value).endsWith("%")
    ? Math.ceil((parseFloat(value) * set.status.desiredNumberScheduled) / 100)
    : Number(value);
  return number === 0 && !quantity(String(rolling.maxSurge ?? 0).replace("%", "")) ? 1 : number;
}

// What a DaemonSet's rollout waits for: how far it is, and why each node that lacks an available pod lacks it.
function explain(set, pods, nodes) {
  const { desiredNumberScheduled: desired, updatedNumberScheduled: updated = 0 } = set.status;
  const nodeOf = (pod) => nodes.find(({ metadata }) => metadata.name === boardOf(pod));
  const missing = pods.filter((pod) => isControlledBy(pod, set) && !(isReady(pod) && isReady(nodeOf(pod))));
  const most = maxUnavailable(set);
  const why = missing.map((pod) => {
    const node = nodeOf(pod);
    const reasons = node ? troubles(node) : ["there is no such Node"];
    return `${boardOf(pod)}: ${reasons.length > 0 ? reasons.join("; ") : unready(pod)}`;
  });
  const summary =
    `${updated} of ${desired} nodes have the newest pod; ` +
    `${missing.length} without an available one, maxUnavailable ${most}`;
  const waits = updated < desired && missing.length >= most && set.spec.updateStrategy?.type !== "OnDelete";
  return { summary, why, waits: waits ? USED_UP : "" };
}

// The node a DaemonSet's pod is for, be it bound yet or not.
function boardOf(pod) {
  const terms =
    pod.spec.affinity?.nodeAffinity?.requiredDuringSchedulingIgnoredDuringExecution?.nodeSelectorTerms ?? [];
  const fields = terms.flatMap(({ matchFields }) => matchFields ?? []);
  return pod.spec.nodeName ?? fields.find(({ key }) => key === "metadata.name")?.values[0] ?? "no node";
}

function unready(pod) {
  const { reason, message } = pod.status?.conditions?.find(({ type }) => type === "Ready") ?? {};
  return [`pod ${pod.metadata.name} is not ready`, reason, message].filter(Boolean).join(": ");
}

async function rollouts() {
  const [sets, nodes] = await Promise.all([json(API.daemonsets), json(API.nodes)]);
  const isUnderWay = ({ metadata, status = {} }) =>
    (status.observedGeneration ?? 0) < metadata.generation ||
    (status.updatedNumberScheduled ?? 0) < status.desiredNumberScheduled ||
    (status.numberAvailable ?? 0) < status.desiredNumberScheduled;
  const rows = sets.items.filter(isUnderWay).map(async (set) => {
    const { namespace, name } = set.metadata;
    const pods = await json(API.podsOf, { namespace, labels: labelsOf(set) });
    const { summary, why, waits } = explain(set, pods.items, nodes.items);
    const lines = [make("div", {}, summary), ...why.map((line) => make("div", { class: "wrong" }, line))];
    if (waits) lines.push(make("div", { class: "wrong" }, waits));
    return [
      link(`${namespace}/${name}`, "object", "DaemonSet", namespace, name),
      make("div", { class: "text" }, ...lines),
    ];
  });
  return rows.length ? grid(["DaemonSet", "How far it is"], await Promise.all(rows)) : quiet("none under way");
}

// One object: its pods, what it printed and used, what happened to it, and itself.
function objectView(kind, namespace, name) {
  const what = kind === "Node" ? "nodes" : WORKLOADS.find(([, its]) => its === kind)?.[0];
  if (!what) return [panel(kind, () => wrong(`This page knows no kind ${kind}.`))];
  const values = { kind, namespace, name };
  const title = `${kind} ${[namespace, name].filter(Boolean).join("/")}`;
  return [
    panel(title, async () => shown(await table(API[what], values), kind, false)),
    ...partsOf(kind, what, values),
    panel("Events", async () => eventRows(await json(API.events, values))),
    panel("Object", async () => {
      const yaml = await (await open(API[what], values, "application/yaml")).text();
      return make("pre", {}, withoutManagedFields(yaml));
    }),
  ];
}

// What a kind alone has.
function partsOf(kind, what, { namespace, name }) {
  switch (kind) {
    case "Pod":
      return [podLogPanel(namespace, name), plotPanel("container", { namespace, pod: name })];
    case "Node":
      return [
        panel("Pods", async () => shown(await table(API.podsOn, { name }), "Pod", true)),
        plotPanel("node", { node: name }),
      ];
    case "CronJob":
      return [];
    default:
      return [
        panel("Pods", async () => {
          const labels = labelsOf(await json(API[what], { namespace, name }));
          return shown(await table(API.podsOf, { namespace, labels }), "Pod", false);
        }),
      ];
  }
}

// Which pods are a workload's, as a label selector.
function labelsOf({ spec }) {
  const { matchLabels = {}, matchExpressions = [] } = spec.selector;
  const equal = Object.entries(matchLabels).map(([key, value]) => `${key}=${value}`);
  const others = matchExpressions.map(({ key, operator, values }) => {
    if (operator === "Exists") return key;
    if (operator === "DoesNotExist") return "!" + key;
    return `${key} ${operator.toLowerCase()} (${values.join(",")})`;
  });
  return [...equal, ...others].join(",");
}

// As kubectl prints it: who set which field is for programs.
const withoutManagedFields = (yaml) => yaml.replace(/^  managedFields:\n(?:  [- ].*\n)*/m, "");

function eventRows({ items }) {
  const last = (event) =>
    event.series?.lastObservedTime ?? event.lastTimestamp ?? event.eventTime ?? event.metadata.creationTimestamp;
  const rows = items
    .sort((one, other) => last(other).localeCompare(last(one)))
    .map((event) => [
      moment(last(event)),
      { text: event.type, class: event.type === "Normal" ? "" : "wrong" },
      event.reason,
      event.series?.count ?? event.count ?? 1,
      { text: event.message, class: "text" },
    ]);
  return rows.length ? grid(["Last", "Type", "Reason", "Count", "Message"], rows) : quiet("none");
}

// ---- logs ----

// A text that grows at its end, and stays there if its reader is there.
function log() {
  const element = make("pre", { tabindex: "0" });
  let chars = 0;
  const add = (text) => {
    if (text === "") return;
    const isAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
    element.append(text);
    for (chars += text.length; chars > LOG_CHARS_MAX && element.childNodes.length > 1; element.firstChild.remove()) {
      chars -= element.firstChild.data.length;
    }
    if (isAtEnd) element.scrollTop = element.scrollHeight;
  };
  const clear = () => {
    element.replaceChildren();
    chars = 0;
  };
  return { element, add, clear };
}

// Work that begins anew when `again` is called, and ends with the view; it says in `state` how it ended.
function restarting(work) {
  const state = make("p", { class: "quiet", role: "status" });
  let running = new AbortController();
  const again = async () => {
    running.abort();
    running = new AbortController();
    const signal = AbortSignal.any([running.signal, view.signal]);
    state.textContent = "";
    try {
      const end = await work(signal);
      if (!signal.aborted) state.textContent = end;
    } catch (error) {
      if (error.code === 401) leave(error.message);
      else if (!signal.aborted) state.textContent = error.message;
    }
  };
  return { state, again };
}

const labelled = (text, control) => make("label", {}, text + " ", control);

// What a container prints, as it prints it; of a pod that is gone, what the log store has.
function podLogPanel(namespace, name) {
  const text = log();
  const container = make("select");
  const previous = make("input", { type: "checkbox" });
  const { state, again } = restarting(async (signal) => {
    text.clear();
    const pod = await json(API.pods, { namespace, name }).catch((error) => {
      if (error.code !== 404) throw error;
    });
    if (!pod) {
      await stored({ namespace, pod: name }, text, signal, () => false);
      return "The pod is gone; these lines are from the log store.";
    }
    if (container.options.length === 0) {
      const lists = [pod.spec.containers, pod.spec.initContainers, pod.spec.ephemeralContainers];
      container.append(...lists.flatMap((list) => list ?? []).map((one) => make("option", {}, one.name)));
    }
    const how = { container: container.value, previous: previous.checked, timestamps: true, tailLines: LOG_LINES };
    const values = { namespace, name, ...how, follow: true };
    const response = await open(API.podLog, values, "*/*", signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) text.add(part.value);
    return "The log ended here.";
  });
  const reload = make("button", { type: "button" }, "Load again");
  reload.addEventListener("click", again);
  for (const control of [container, previous]) control.addEventListener("change", again);
  const controls = make(
    "div",
    { class: "controls" },
    labelled("Container", container),
    labelled("of the run before", previous),
    reload,
    link("in the log store", "logs", namespace, name),
  );
  again();
  return {
    element: make("section", {}, make("h2", {}, "Log"), controls, make("div", {}, text.element), state),
    refresh: async () => {},
  };
}

// Adds what the log store has, then what comes to it for as long as `follows` says so.
async function stored(values, text, signal, follows) {
  let [tailLines, place] = [LOG_LINES, ""];
  while (!signal.aborted) {
    const page = await (
      await open(API.logs, { ...values, tailLines, continue: place }, "application/json", signal)
    ).json();
    text.add(page.items.map(logLine).join(""));
    place = page.metadata.continue || page.last || place;
    tailLines = 0;
    if (!page.metadata.continue) {
      if (!follows()) return;
      await rest();
    }
  }
}

function logLine({ time, node, namespace, pod, container, text, missing }) {
  const name = pod ? `${namespace}/${pod}` : node;
  const said = missing === undefined ? text : `(${text})`;
  return `${time.slice(0, 23)}Z ${name}/${container} ${said}\n`;
}

// The log store: what any pod printed, those that are gone included.
function logsView(namespace, name = "") {
  if (namespace) at("namespace").value = namespace;
  const text = log();
  const field = (value, placeholder) => {
    const input = make("input", { placeholder, spellcheck: "false" });
    input.value = value;
    return input;
  };
  const [pod, container, pattern, node] = [
    field(name, "any"),
    field("", "any"),
    field("", "regular expression"),
    field("", "any"),
  ];
  const range = make(
    "select",
    {},
    make("option", { value: "" }, "ever"),
    ...RANGES.map(([words, seconds]) => make("option", { value: seconds }, "the last " + words)),
  );
  const [ofNodes, follows] = [make("input", { type: "checkbox" }), make("input", { type: "checkbox" })];
  follows.checked = true;
  const { state, again } = restarting(async (signal) => {
    text.clear();
    const values = {
      namespace: ofNodes.checked ? "" : chosenNamespace(),
      pod: pod.value.trim(),
      container: container.value.trim(),
      node: node.value.trim(),
      grep: pattern.value,
      ofNodes: ofNodes.checked ? "true" : "",
      sinceTime: range.value ? ago(Number(range.value)) : "",
    };
    await stored(values, text, signal, () => follows.checked);
    return text.element.hasChildNodes() ? "That is all." : "No such lines.";
  });
  const form = make(
    "form",
    { class: "controls" },
    labelled("Pod", pod),
    labelled("Container", container),
    labelled("Node", node),
    labelled("Lines with", pattern),
    labelled("of", range),
    labelled("the nodes' own", ofNodes),
    labelled("follow", follows),
    make("button", {}, "Show"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    again();
  });
  again();
  return [
    {
      element: make("section", {}, make("h2", {}, "Logs"), form, make("div", {}, text.element), state),
      refresh: async () => {},
    },
  ];
}

// ---- plots ----

const label = (series, name) => new RegExp(`[{,]${name}="([^"]*)"`).exec(series)?.[1] ?? "";

// A counter's samples as use a second. One that fell began anew, and a gap gives no rate.
function rates(samples, gap_ms) {
  const pairs = samples.slice(1).map((sample, index) => [samples[index], sample]);
  return pairs
    .filter(([[from, was], [to, is]]) => to > from && to - from <= gap_ms && is >= was)
    .map(([[from, was], [to, is]]) => [to, ((is - was) * 1000) / (to - from)]);
}

// Series as lines: a name, and points.
async function lines(of, what, values, counts, gap_ms) {
  const { items } = await json(API.series, { ...values, series: `${of}_${what}` });
  const name = (series) => {
    if (of === "node") return [label(series, "node"), label(series, "type")].filter(Boolean).join(" ");
    return values.pod ? label(series, of) : `${label(series, "namespace")}/${label(series, of)}`;
  };
  const all = items.map(({ series, samples }) => {
    return { name: name(series), points: counts ? rates(samples, gap_ms) : samples };
  });
  return all.filter(({ points }) => points.length > 0);
}

// What nodes, pods or containers use, for a time the reader chooses.
function plotPanel(of, values) {
  const range = make("select", {}, ...RANGES.map(([words, seconds]) => make("option", { value: seconds }, words)));
  let next_ms = 0;
  const load = async () => {
    const seconds = Number(range.value);
    const step = Math.round(seconds / PLOT_POINTS);
    next_ms = Date.now() + step * 1000;
    const frame = { from: now() - seconds * 1000, to: now(), gap_ms: Math.max(4 * step, 60) * 1000 };
    const asked = { ...values, sinceTime: ago(seconds), step };
    const loaded = PLOTS[of].map(([, what, , counts]) => lines(of, what, asked, counts, frame.gap_ms));
    const all = await Promise.all(loaded);
    // One colour a name, in all plots.
    const names = [...new Set(all.flat().map(({ name }) => name))].sort();
    const colour = (name) => "line" + (names.indexOf(name) % COLOURS);
    const measured = PLOTS[of].flatMap(([title, , unit], index) => plot(title, all[index], unit, colour, frame));
    return measured.length > 0 ? measured : quiet("Nothing was measured.");
  };
  const { element, refresh } = panel(of === "node" && values.node ? "Use" : `Use of ${of}s`, load);
  element.insertBefore(make("div", { class: "controls" }, labelled("The last", range)), element.lastChild);
  range.addEventListener("change", refresh);
  // There is nothing new to see before a step is over.
  return { element, refresh: async () => (Date.now() < next_ms ? undefined : refresh()) };
}

function plotsView() {
  return [plotPanel("node", {}), plotPanel("pod", { namespace: chosenNamespace() })];
}

function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// A round number that is no less.
function above(number) {
  const unit = 2 ** Math.floor(Math.log2(number || 1));
  return [1, 1.25, 1.5, 1.75, 2].map((times) => times * unit).find((top) => top >= number);
}

// Lines over time with a legend that says what each was last.
function plot(title, all, form, colour, { from, to, gap_ms }) {
  if (all.length === 0) return [];
  const last = ({ points }) => points.at(-1)[1];
  // What is gone comes after what is there.
  const isThere = ({ points }) => to - points.at(-1)[0] <= gap_ms;
  const order = (one, other) => isThere(other) - isThere(one) || last(other) - last(one);
  const most = [...all].sort(order).slice(0, PLOT_LINES_MAX);
  const top = above(Math.max(...most.flatMap(({ points }) => points.map(([, value]) => value))));
  const [left, right, high, low] = [72, 636, 10, 150];
  const x = (time) => left + ((time - from) / (to - from)) * (right - left);
  const y = (value) => low - (value / top) * (low - high);
  const step = ([time, value], index, points) => {
    const begins = index === 0 || time - points[index - 1][0] > gap_ms;
    return `${begins ? "M" : "L"}${x(time).toFixed(1)} ${y(value).toFixed(1)}`;
  };
  const levels = [0, top / 2, top].flatMap((value) => [
    draw("line", { class: "level", x1: left, x2: right, y1: y(value), y2: y(value) }),
    draw("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, form(value)),
  ]);
  const times = [
    [from, "start"],
    [(from + to) / 2, "middle"],
    [to, "end"],
  ].map(([ms, anchor]) => draw("text", { x: x(ms), y: low + 18, "text-anchor": anchor }, hour(ms, to - from)));
  const paths = most.map(({ name, points }) => draw("path", { class: colour(name), d: points.map(step).join("") }));
  const legend = most.map((line) => make("li", { class: colour(line.name) }, `${line.name}: ${form(last(line))}`));
  const rest = all.length > most.length ? [quiet(`${all.length - most.length} more use less or are gone.`)] : [];
  return [
    make("h3", {}, title),
    draw("svg", { viewBox: "0 0 640 172", role: "img", "aria-label": title }, ...levels, ...times, ...paths),
    make("ul", { class: "legend" }, ...legend),
    ...rest,
  ];
}

// When, as precisely as so long a time wants it.
function hour(ms, length_ms) {
  const date = new Date(ms);
  if (length_ms > 86_400_000) return date.toLocaleDateString();
  return date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

// ---- the frame ----

const at = (id) => document.getElementById(id);
const chosenNamespace = () => at("namespace").value.trim();

// Ends what the view before had under way.
let view = new AbortController();

// Loads panels, then again and again while they are looked at.
async function show(panels) {
  const { signal } = view;
  at("main").replaceChildren(...panels.map((panel) => panel.element));
  while (!signal.aborted) {
    await Promise.all(panels.map((panel) => panel.refresh()));
    await rest();
  }
}

// A while, and as long as nobody looks.
async function rest() {
  do await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
  while (document.hidden);
}

function route() {
  view.abort();
  view = new AbortController();
  const isIn = sessionStorage.getItem("token") !== null;
  at("login").hidden = isIn;
  at("top").hidden = at("main").hidden = !isIn;
  if (!isIn) return at("token").focus();
  const [name, ...steps] = location.hash.slice(2).split("/").map(decodeURIComponent);
  const chosen = Object.hasOwn(VIEWS, name) ? name : "nodes";
  at("views").replaceChildren(
    ...MENU.map(([to, text]) => {
      const item = link(text, to);
      if (to === chosen) item.setAttribute("aria-current", "page");
      return item;
    }),
  );
  show(VIEWS[chosen](...steps));
}

// Who the token speaks for, and which namespaces there are to choose from, if it may know.
async function greet() {
  const review = await json(API.whoAmI);
  at("account").textContent = review.status.userInfo.username;
  const { rows } = await table(API.namespaces).catch(() => ({ rows: [] }));
  at("namespaces").replaceChildren(...(rows ?? []).map((row) => make("option", { value: row.object.metadata.name })));
}

async function enter(event) {
  event.preventDefault();
  sessionStorage.setItem("token", at("token").value.trim());
  at("refused").textContent = "";
  try {
    await greet();
  } catch (error) {
    return leave(error.message);
  }
  at("token").value = "";
  route();
}

function leave(why = "") {
  sessionStorage.removeItem("token");
  at("refused").textContent = why;
  route();
}

at("login").addEventListener("submit", enter);
at("leave").addEventListener("click", () => leave());
at("namespace").addEventListener("change", route);
addEventListener("hashchange", route);
if (sessionStorage.getItem("token") !== null)
  greet().catch((error) => (error.code === 401 ? leave(error.message) : undefined));
route();
