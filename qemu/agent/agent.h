/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The frames between the host and the agent in the guest, over one
 * virtio-serial port. The host's side is src/vm/agent-protocol.ts: change both.
 *
 * A frame is a header of eight bytes, little endian, and its payload.
 */
#ifndef SEALBUS_AGENT_H
#define SEALBUS_AGENT_H

#include <stdint.h>

#define AGENT_VERSION		1
#define AGENT_PORT_NAME		"sealbus.agent"
/* Longest payload, either way. */
#define AGENT_PAYLOAD_MAX	65536
/* Bytes of one stream that may be under way without a credit. */
#define AGENT_WINDOW		262144
/* Commands that may run at once. */
#define AGENT_SESSIONS_MAX	16
/* Arguments and environment entries of one command, together. */
#define AGENT_STRINGS_MAX	1024

struct agent_frame {
	uint32_t length;	/* of the payload */
	uint16_t session;	/* chosen by the host; 0 where none is meant */
	uint8_t type;
	uint8_t stream;		/* 0 stdin, 1 stdout, 2 stderr */
};

enum agent_frame_type {
	/* Host to guest. */
	AGENT_START = 1,	/* struct agent_start, then strings, each ended by NUL */
	AGENT_STDIN = 2,	/* bytes; none at all is the end of file */
	AGENT_SIGNAL = 3,	/* u32 signal number, to the command's process group */
	AGENT_WINDOW_SIZE = 4,	/* u16 rows, u16 columns */
	AGENT_POWER_OFF = 5,	/* no payload */
	AGENT_GREET = 6,	/* no payload; AGENT_HELLO answers */
	/* Both ways. */
	AGENT_CREDIT = 8,	/* u32 bytes of the stream that were consumed */
	/* Guest to host. */
	AGENT_HELLO = 16,	/* struct agent_hello, then the kernel's release */
	AGENT_OUTPUT = 17,	/* bytes of stdout or stderr */
	AGENT_EXIT = 18,	/* struct agent_exit; the session is free again */
};

struct agent_start {
	uint32_t flags;
	uint16_t rows, columns;	/* of the pseudo terminal */
	uint16_t arguments;	/* at least 1 */
	uint16_t environment;	/* NAME=value */
	/* Strings: the working directory, the arguments, the environment. */
};

#define AGENT_START_PTY		1

struct agent_hello {
	uint32_t version;
	uint32_t uptime_ms;	/* since the kernel began to count */
};

struct agent_exit {
	uint32_t code;		/* exit code, where signal is 0 */
	uint32_t signal;
};

#endif
