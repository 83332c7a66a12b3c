// Made by tools/web_types.py from the protos; do not edit.

/** A 64-bit number, which JSON has as a text. */
export type Long = string | number;

export interface BlockedFlow {
  host?: string;
  workload?: string;
  ingress?: boolean;
  tags?: Record<string, string>;
  peer_host?: string;
  peer_tags?: Record<string, string>;
  remote?: string;
  service?: PortRange;
  service_name?: string;
  flows?: Long;
  last_seen_us?: Long;
  reason?: string;
  rule?: string;
  was?: string;
  was_rule?: string;
  owner?: string;
  processes?: string[];
  denied?: Long;
}

export interface Ca {
  certificate?: string;
  name?: string;
  until_us?: Long;
  signs?: boolean;
  hosts?: number;
}

export interface CaStatus {
  stage?: string;
  cas?: Ca[];
  controller_until_us?: Long;
}

export interface Change {
  allowed?: boolean;
  source?: string;
  destination?: string;
  service?: string;
  rule?: string;
  hosts?: string[];
}

export interface CheckReply {
  findings?: Finding[];
  hosts?: number;
}

export interface CutConnection {
  host?: string;
  connection?: LiveConnection;
  peer_host?: string;
}

export interface DecideSuggestionReply {
}

export interface DecideSuggestionRequest {
  id?: string;
  verdict?: string;
  reason?: string;
  suggested?: string;
  decided?: string;
}

export interface Denial {
  ingress?: boolean;
  verdict?: string;
  workload?: string;
  remote?: string;
  service?: PortRange;
  process?: ProcessInfo;
  process_unknown?: string;
  count?: Long;
  first_seen_us?: Long;
  last_seen_us?: Long;
  generation?: Long;
}

export interface DeniedConnection {
  host?: string;
  denial?: Denial;
  peer_host?: string;
  peer_workload?: string;
  peer_tags?: Record<string, string>;
  reason?: string;
  rule?: string;
  suggestion?: string;
  tags?: Record<string, string>;
  id?: Long;
  service_name?: string;
}

export interface DeniedReply {
  connection?: DeniedConnection;
  lost?: Long;
}

export interface DeniedRequest {
  follow?: boolean;
  limit?: number;
  host?: string;
  workload?: string;
  since_us?: Long;
}

export interface DescribePolicyRequest {
  generation?: Long;
  at_us?: Long;
  parts?: string[];
}

export interface DescribedBoundary {
  name?: string;
  source?: string;
  destination?: string;
  file?: string;
  line?: number;
}

export interface DescribedMode {
  select?: string;
  mode?: string;
  file?: string;
  line?: number;
}

export interface DescribedName {
  name?: string;
  values?: string[];
}

export interface DescribedRule {
  name?: string;
  source?: string;
  destination?: string;
  allow?: string[];
  within?: string[];
  owner?: string;
  why?: string;
  review?: string;
  expires?: string;
  expired?: boolean;
  file?: string;
  line?: number;
}

export interface DraftImpactFlowsReply {
  blocked?: BlockedFlow[];
  blocked_kinds?: Long;
  blocked_flows?: Long;
  judged_flows?: Long;
  more?: boolean;
  allowed?: BlockedFlow[];
  allowed_kinds?: Long;
  allowed_flows?: Long;
  newly_blocked_flows?: Long;
  spans?: ImpactSpan[];
  since_us?: Long;
  until_us?: Long;
}

export interface DraftImpactFlowsRequest {
  source?: PolicySource;
  since_us?: Long;
  until_us?: Long;
  limit?: number;
  span_us?: Long;
}

export interface EndVerdict {
  host?: string;
  workload?: string;
  direction?: string;
  verdict?: string;
  mode?: string;
  reason?: string;
  rule?: string;
  position?: string;
  kernel_verdict?: string;
  kernel_detail?: string;
}

export interface Event {
  kind?: string;
  message?: string;
  at_us?: Long;
  culprit_pid?: number;
  culprit_name?: string;
}

export interface ExplainReply {
  verdict?: string;
  ends?: EndVerdict[];
  nearest_rule?: string;
  nearest_why?: string;
  suggestion?: string;
  notes?: string[];
  differs?: boolean;
  generation?: Long;
}

export interface ExplainRequest {
  source?: string;
  destination?: string;
  service?: string;
  live?: boolean;
}

export interface Finding {
  file?: string;
  line?: number;
  column?: number;
  severity?: string;
  code?: string;
  message?: string;
  hint?: string;
}

export interface FlowMapReply {
  edges?: MapEdge[];
  more?: boolean;
  lost?: Long;
  generation?: Long;
  compared_since_us?: Long;
  more_denied?: boolean;
}

export interface FlowMapRequest {
  since_us?: Long;
  until_us?: Long;
  limit?: number;
  by?: string[];
  at_us?: Long;
  generation?: Long;
  source?: TagGroup;
  destination?: TagGroup;
  protocol?: string;
  port?: number;
  detail?: string;
}

export interface FlowRecord {
  host?: string;
  workload?: string;
  ingress?: boolean;
  remote?: string;
  peer_host?: string;
  peer_workload?: string;
  service?: PortRange;
  service_name?: string;
  rule?: string;
  verdict?: string;
  flows?: Long;
  bytes_sent?: Long;
  bytes_received?: Long;
  first_seen_us?: Long;
  last_seen_us?: Long;
  process?: string;
  peer_process?: string;
}

export interface FlowsReply {
  flows?: FlowRecord[];
  lost?: Long;
}

export interface FlowsRequest {
  limit?: number;
  host?: string;
  workload?: string;
  since_us?: Long;
  rule?: string;
  address?: string;
  protocol?: string;
  port?: number;
  verdict?: string;
  until_us?: Long;
  process?: string;
  source?: TagGroup;
  destination?: TagGroup;
}

export interface Generation {
  number?: Long;
  digest?: string;
  author?: string;
  message?: string;
  created_us?: Long;
  active?: boolean;
  rollback_of?: Long;
  source?: PolicySource;
  state?: string;
  why?: string;
}

export interface GetGenerationRequest {
  number?: Long;
}

export interface HistoryReply {
  generations?: Generation[];
}

export interface HistoryRequest {
  limit?: number;
}

export interface HostStatus {
  name?: string;
  tags?: Record<string, string>;
  addresses?: string[];
  connected?: boolean;
  last_seen_us?: Long;
  agent_version?: string;
  kernel_generation?: Long;
  state?: string;
  workloads?: WorkloadStatus[];
  problems?: string[];
  listeners?: Listener[];
  kernel?: string;
  table_guard?: string;
  mark_mask?: number;
  troubles?: Trouble[];
}

export interface ImpactSpan {
  since_us?: Long;
  until_us?: Long;
  judged_flows?: Long;
  blocked_flows?: Long;
  allowed_flows?: Long;
}

export interface LeftOutFlows {
  reason?: string;
  why?: string;
  flows?: Long;
  observations?: ObservedFlows[];
}

export interface ListDecisionsReply {
  decisions?: SuggestionDecision[];
}

export interface ListDecisionsRequest {
}

export interface ListHostsReply {
  hosts?: HostStatus[];
}

export interface ListHostsRequest {
  name?: string;
}

export interface Listener {
  protocol?: string;
  address?: string;
  port?: number;
  workload?: string;
  cgroup?: string;
  process?: string;
  uid?: number;
}

export interface LiveConnection {
  ingress?: boolean;
  workload?: string;
  remote?: string;
  service?: PortRange;
  remote_port?: number;
  local_port?: number;
  process?: ProcessInfo;
  rule?: string;
}

export interface MapComparison {
  permitted?: Long;
  rejected?: Long;
  escaped?: Long;
  misdropped?: Long;
}

export interface MapEdge {
  source?: TagGroup;
  destination?: TagGroup;
  service?: PortRange;
  service_name?: string;
  flows?: Long;
  would_deny?: Long;
  observed?: Long;
  bytes?: Long;
  last_seen_us?: Long;
  verdict?: string;
  verdicts?: MapVerdicts;
  comparison?: MapComparison;
  reasons?: MapReason[];
  denied?: Long;
}

export interface MapReason {
  ingress?: boolean;
  verdict?: string;
  reason?: string;
  rule?: string;
  flows?: Long;
  owner?: string;
}

export interface MapVerdicts {
  allowed?: Long;
  not_covered?: Long;
  would_deny?: Long;
  denied?: Long;
}

export interface ModeChange {
  host?: string;
  workload?: string;
  before?: string;
  after?: string;
}

export interface ObservedFlows {
  source?: string;
  destination?: string;
  service?: string;
  flows?: Long;
  sightings?: number;
  hosts?: number;
  first_seen_us?: Long;
  last_seen_us?: Long;
}

export interface Obstacle {
  code?: string;
  message?: string;
  hint?: string;
}

export interface PeriodicFlow {
  flow?: SeenFlow;
  every_days?: number;
  expected_us?: Long;
  explained?: boolean;
}

export interface PlanReply {
  findings?: Finding[];
  base_generation?: Long;
  digest?: string;
  changes?: Change[];
  modes?: ModeChange[];
  hosts?: string[];
  tests?: number;
  cuts?: CutConnection[];
  cut_total?: Long;
  unasked?: string[];
  behind?: boolean;
  impact?: DraftImpactFlowsReply;
}

export interface PolicyDescription {
  generation?: Generation;
  rules?: DescribedRule[];
  boundaries?: DescribedBoundary[];
  modes?: DescribedMode[];
  peers?: DescribedName[];
  services?: DescribedName[];
  workloads?: DescribedName[];
  tags?: DescribedName[];
  tests?: number;
}

export interface PolicySource {
  files?: SourceFile[];
}

export interface PortRange {
  protocol?: string;
  low?: number;
  high?: number;
}

export interface ProcessInfo {
  pid?: number;
  exe?: string;
  command?: string;
  user?: string;
  unit?: string;
  cgroup?: string;
}

export interface PushPhase {
  name?: string;
  wave?: number;
  waves?: number;
  hosts?: number;
  seconds?: number;
}

export interface Readiness {
  select?: Selection;
  phase?: string;
  next?: string;
  ready?: boolean;
  since_us?: Long;
  since_known?: boolean;
  hosts?: number;
  days?: number;
  flows?: Long;
  covered?: Long;
  bounded?: Long;
  unexplained?: Long;
  unexplained_kinds?: number;
  coming?: Long;
  top?: SeenFlow[];
  periodic?: PeriodicFlow[];
  periodic_kinds?: number;
  tests?: number;
  broken_tests?: Finding[];
  obstacles?: Obstacle[];
}

export interface ReadinessReply {
  selectors?: Readiness[];
  generation?: Long;
  more?: boolean;
  lost?: Long;
}

export interface ReadinessRequest {
  selectors?: Selection[];
  since_us?: Long;
  least_days?: number;
}

export interface RecentEvent {
  host?: string;
  event?: Event;
}

export interface RuleFinding {
  kind?: string;
  why?: string;
  mend?: string;
  narrower?: string;
}

export interface RuleLife {
  use?: RuleUse;
  since_us?: Long;
  since_known?: boolean;
  owner?: string;
  why?: string;
  review?: string;
  expires?: string;
  findings?: RuleFinding[];
}

export interface RuleReportReply {
  rules?: RuleLife[];
  window_days?: number;
  more?: boolean;
}

export interface RuleReportRequest {
  rule?: string;
  stale_days?: number;
  soon_days?: number;
}

export interface RuleSuggestion {
  id?: string;
  name?: string;
  source?: string;
  destination?: string;
  services?: string[];
  within?: string[];
  confidence?: string;
  rhythm?: string;
  flows?: Long;
  sightings?: number;
  hosts?: number;
  of_hosts?: number;
  first_seen_us?: Long;
  last_seen_us?: Long;
  excess?: SuggestionExcess;
  explains?: ObservedFlows[];
  explained?: number;
  remarks?: string[];
  policy?: string;
  whole?: string;
  decision?: SuggestionDecision;
}

export interface RuleUse {
  rule?: string;
  count?: Long;
  last_hit_us?: Long;
  hosts?: number;
  in_policy?: boolean;
}

export interface RuleUseReply {
  rules?: RuleUse[];
}

export interface RuleUseRequest {
  rule?: string;
}

export interface Scope {
  tags?: Record<string, string>;
}

export interface SeenFlow {
  host?: string;
  workload?: string;
  ingress?: boolean;
  tags?: Record<string, string>;
  peer_host?: string;
  peer_tags?: Record<string, string>;
  remote?: string;
  service?: PortRange;
  service_name?: string;
  flows?: Long;
  last_seen_us?: Long;
  process?: string;
}

export interface Selection {
  tags?: Record<string, string>;
  workload?: string;
}

export interface SourceFile {
  name?: string;
  content?: string;
}

export interface StatusReply {
  active?: Generation;
  hosts?: HostStatus[];
  events?: RecentEvent[];
  fleet?: string;
  controller_version?: string;
  trial?: TrialStatus;
  ca?: CaStatus;
}

export interface StatusRequest {
}

export interface SuggestReply {
  since_us?: Long;
  until_us?: Long;
  by_hour?: boolean;
  suggestions?: RuleSuggestion[];
  left_out?: LeftOutFlows[];
  permitted_flows?: Long;
  policy?: string;
  more?: boolean;
}

export interface SuggestRequest {
  since_us?: Long;
  until_us?: Long;
}

export interface SuggestionDecision {
  id?: string;
  verdict?: string;
  actor?: string;
  at_us?: Long;
  reason?: string;
  rule?: string;
  suggested?: string;
  decided?: string;
}

export interface SuggestionExcess {
  permitted?: number;
  seen?: number;
  unseen?: number;
  silent?: number;
  examples?: string[];
}

export interface TagGroup {
  tags?: Record<string, string>;
  outside?: boolean;
  peer?: string;
  network?: string;
  host?: string;
  workload?: string;
  process?: string;
}

export interface Talker {
  host?: string;
  workload?: string;
  flows?: Long;
  bytes_sent?: Long;
  bytes_received?: Long;
  last_seen_us?: Long;
}

export interface TopTalkersReply {
  talkers?: Talker[];
}

export interface TopTalkersRequest {
  since_us?: Long;
  until_us?: Long;
  limit?: number;
}

export interface TrialStatus {
  generation?: Generation;
  phase?: PushPhase;
  proven?: number;
}

export interface Trouble {
  text?: string;
  next?: string;
}

export interface WhoAmIReply {
  name?: string;
  role?: string;
  fleet?: string;
  controller_version?: string;
  certificate_until_us?: Long;
  trust?: string[];
  identity?: string;
  scopes?: Scope[];
  until_us?: Long;
}

export interface WhoAmIRequest {
}

export interface WorkloadStatus {
  name?: string;
  mode?: string;
  process?: string;
  cgroups?: string[];
  identified?: string;
  strength?: string;
  why?: string;
}

export interface Methods {
  WhoAmI: { request: WhoAmIRequest; reply: WhoAmIReply };
  Check: { request: PolicySource; reply: CheckReply };
  Plan: { request: PolicySource; reply: PlanReply };
  Status: { request: StatusRequest; reply: StatusReply };
  History: { request: HistoryRequest; reply: HistoryReply };
  GetGeneration: { request: GetGenerationRequest; reply: Generation };
  ListHosts: { request: ListHostsRequest; reply: ListHostsReply };
  Explain: { request: ExplainRequest; reply: ExplainReply };
  Flows: { request: FlowsRequest; reply: FlowsReply };
  FlowMap: { request: FlowMapRequest; reply: FlowMapReply };
  TopTalkers: { request: TopTalkersRequest; reply: TopTalkersReply };
  DraftImpactFlows: { request: DraftImpactFlowsRequest; reply: DraftImpactFlowsReply };
  RuleUse: { request: RuleUseRequest; reply: RuleUseReply };
  DescribePolicy: { request: DescribePolicyRequest; reply: PolicyDescription };
  Readiness: { request: ReadinessRequest; reply: ReadinessReply };
  RuleReport: { request: RuleReportRequest; reply: RuleReportReply };
  Suggest: { request: SuggestRequest; reply: SuggestReply };
  DecideSuggestion: { request: DecideSuggestionRequest; reply: DecideSuggestionReply };
  ListDecisions: { request: ListDecisionsRequest; reply: ListDecisionsReply };
}

export interface Streams {
  Denied: { request: DeniedRequest; reply: DeniedReply };
}
