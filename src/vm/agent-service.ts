/**
 * Our agent in a guest whose disk knows nothing of it: systemd (256 or later) takes units from its
 * credentials, and the program comes as one more. Where a machine hands over none, nothing of ours runs.
 */
import { buildProgram, guestCache } from './guest-build.ts';
import type { SystemdCredential } from './systemd-credentials.ts';

/** What a boot that brings the agent waits for; part of what is said when it does not come. */
export const agentServiceNeeds =
  'the agent, which the guest’s systemd (256 or later) starts from its credentials after ' +
  'multi-user.target, to answer';

const binary = 'sealbus.agent';
const directory = '/run/sealbus';

/** A file system of its own, since programs of /run are not to be run in Debian (noexec). */
const mountUnit = `[Unit]
Description=Programs of sealbus
DefaultDependencies=no
Before=umount.target
Conflicts=umount.target

[Mount]
What=tmpfs
Where=${directory}
Type=tmpfs
Options=mode=0755,size=4m,nosuid,nodev
`;

/**
 * It takes commands when the system is up; with the default dependencies multi-user.target would wait
 * for it.
 */
const serviceUnit = `[Unit]
Description=Agent of sealbus
DefaultDependencies=no
After=basic.target multi-user.target
RequiresMountsFor=${directory}
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=exec
ExecStartPre=/usr/bin/install -m 0755 /run/credentials/@system/${binary} ${directory}/agent
ExecStart=${directory}/agent
KillMode=control-group
TimeoutStopSec=5
TasksMax=infinity
`;

const wanted = `[Unit]
Wants=sealbus-agent.service
`;

/** Builds the agent where it must. @throws VmError, SetupError where it does not build */
export async function agentCredentials(
  cache: string = guestCache(),
): Promise<readonly SystemdCredential[]> {
  return [
    { name: binary, file: await buildProgram('agent/agent.c', cache) },
    { name: 'systemd.extra-unit.run-sealbus.mount', text: mountUnit },
    { name: 'systemd.extra-unit.sealbus-agent.service', text: serviceUnit },
    { name: 'systemd.unit-dropin.multi-user.target~sealbus', text: wanted },
  ];
}
