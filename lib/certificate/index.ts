export type { CalibrationCases } from "./cases.js";
export {
  type AcceptedShare,
  type Certification,
  type Certified,
  type CertifyOptions,
  casesNeeded,
  certify,
  type LossKind,
  type NotCertified,
  PROMISE,
  scoreThresholds,
  type TestedThreshold,
} from "./certify.js";
export { CERTIFICATE_RULES, type CertificateRule, type Levels, RULE_NAMES, type RuleName } from "./rules.js";
