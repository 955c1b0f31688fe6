/** VMs of somebody else's QEMUs in this process, and the socket through which their owner speaks to them. */
export { ConfigError, ConfigErrors, type ConfigPlace } from './config/config-place.ts';
export { parseServeConfig } from './config/parse-serve-config.ts';
export type {
  DeviceConfig,
  FunctionConfig,
  ServeConfig,
  VmConfig,
} from './config/serve-config.ts';
export type { NamespaceConfig, SubsystemConfig } from './config/subsystem-config.ts';
export { ControlClient, ControlError } from './control/control-client.ts';
export type { ControlOperation, ControlOperations } from './control/control-request.ts';
export type {
  ControlAnswers,
  KeyDescription,
  VmDescription,
  VmSummary,
} from './control/operations.ts';
export type { RecordLine } from './record/record-line.ts';
export type { Recorder } from './record/recorder.ts';
export type {
  NamespaceDescription,
  SubsystemDescription,
  SubsystemFunctionDescription,
  SubsystemSummary,
} from './served-subsystem.ts';
export type {
  FunctionDescription,
  PrintedCommand,
  ServedVm,
  SubsystemFunction,
} from './served-vm.ts';
export { controlSockets, Service, type ServiceOptions } from './service.ts';
export type { SharedDescription } from './shared-description.ts';
export type { Subsystems } from './subsystems.ts';
export { type BindTarget, VmHost, type VmHostOptions } from './vm-host.ts';
