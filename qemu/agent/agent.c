// SPDX-License-Identifier: GPL-2.0
/*
 * Runs commands for the host, which asks by frames over a virtio-serial port
 * (agent.h). As process 1 it is the init of the sealbus guest: it mounts what a
 * kernel offers, and powers off when the host is gone. Otherwise it is a service
 * of the guest's own init, to which mounts and power are left.
 *
 * Memory is bounded by credits: of each stream at most AGENT_WINDOW bytes are
 * under way, so that a command that does not read its stdin, or a host that
 * does not read its stdout, holds up itself only.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define PATH_DEFAULT "/usr/local/bin:/bin:/sbin:/usr/bin:/usr/sbin"
#define PORT_WAIT_MS 10000

struct session {
	uint16_t id;		/* 0 where the slot is free */
	pid_t pid;
	int pty;
	int exited;
	int status;
	int fd[3];		/* the parent's ends; -1 where closed */
	uint32_t credit[3];	/* bytes of stdout and stderr the host still takes */
	uint32_t left[3];	/* after its end: bytes that are still to be sent */
	char *input;		/* ring of AGENT_WINDOW bytes for stdin */
	uint32_t input_start, input_length;
	char input_last;	/* its last byte; a newline where there was none */
	int input_ended;
};

static struct session sessions[AGENT_SESSIONS_MAX];
static int port = -1;
static int is_init;

static void give_up(void) __attribute__((noreturn));

static void say(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	fputs("sealbus agent: ", stderr);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
	va_end(arguments);
}

/* Without the host there is nothing to do: init ends the machine, a service itself. */
static void give_up(void)
{
	if (is_init) {
		kill(-1, SIGKILL);
		sync();
		reboot(RB_POWER_OFF);
	}
	_exit(1);
}

/* The guest's own init ends what runs, the agent as well, and unmounts. */
static void power_off(void)
{
	pid_t child;

	if (is_init)
		give_up();
	child = fork();
	if (!child) {
		sigset_t none;

		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		execlp("systemctl", "systemctl", "poweroff", NULL);
		_exit(127);
	}
	if (child < 0)
		say("cannot start systemctl: %s", strerror(errno));
}

static void mount_on(const char *kind, const char *path, unsigned long flags,
		     const char *options)
{
	mkdir(path, 0755);
	if (mount(kind, path, kind, flags, options) && errno != EBUSY)
		say("cannot mount %s on %s: %s", kind, path, strerror(errno));
}

static void mount_all(void)
{
	unsigned long strict = MS_NOSUID | MS_NODEV | MS_NOEXEC;

	mount_on("devtmpfs", "/dev", MS_NOSUID, "mode=0755");
	mount_on("proc", "/proc", strict, NULL);
	mount_on("sysfs", "/sys", strict, NULL);
	mount_on("debugfs", "/sys/kernel/debug", strict, NULL);
	mount_on("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC,
		 "mode=0620,ptmxmode=0666");
	mount_on("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777");
	mount_on("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755");
	(void)!symlink("/proc/self/fd", "/dev/fd");
	(void)!symlink("/proc/self/fd/0", "/dev/stdin");
	(void)!symlink("/proc/self/fd/1", "/dev/stdout");
	(void)!symlink("/proc/self/fd/2", "/dev/stderr");
}

/* The port is found by its name: its number depends on the other ports. */
static int open_port_once(void)
{
	const char *class = "/sys/class/virtio-ports";
	DIR *directory = opendir(class);
	struct dirent *entry;
	int found = -1;

	if (!directory)
		return -1;
	while (found < 0 && (entry = readdir(directory))) {
		char path[sizeof(entry->d_name) + 64], name[64];
		FILE *file;

		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s/name", class, entry->d_name);
		file = fopen(path, "re");
		if (!file)
			continue;
		if (fgets(name, sizeof(name), file)) {
			name[strcspn(name, "\n")] = 0;
			if (!strcmp(name, AGENT_PORT_NAME)) {
				snprintf(path, sizeof(path), "/dev/%s",
					 entry->d_name);
				found = open(path, O_RDWR | O_CLOEXEC);
			}
		}
		fclose(file);
	}
	closedir(directory);
	return found;
}

static int open_port(void)
{
	int waited_ms;

	for (waited_ms = 0; waited_ms < PORT_WAIT_MS; waited_ms += 2) {
		int fd = open_port_once();

		if (fd >= 0)
			return fd;
		usleep(2000);
	}
	return -1;
}

/* The host always reads, so writing may block: never for long. */
static void write_port(const void *bytes, size_t length)
{
	const char *from = bytes;

	while (length) {
		ssize_t wrote = write(port, from, length);

		if (wrote < 0) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			say("the port to the host is gone: %s", strerror(errno));
			give_up();
		}
		from += wrote;
		length -= wrote;
	}
}

static void send_frame(uint16_t session, enum agent_frame_type type,
		       uint8_t stream, const void *payload, uint32_t length)
{
	/* One write a frame: each write is a round through the device. */
	static char frame[sizeof(struct agent_frame) + AGENT_PAYLOAD_MAX];
	struct agent_frame header = {
		.length = length, .session = session,
		.type = type, .stream = stream,
	};

	memcpy(frame, &header, sizeof(header));
	if (length)
		memcpy(frame + sizeof(header), payload, length);
	write_port(frame, sizeof(header) + length);
}

static void send_hello(void)
{
	char payload[sizeof(struct agent_hello) + 128];
	struct agent_hello hello = { .version = AGENT_VERSION };
	struct timespec now;
	struct utsname system;
	int length;

	clock_gettime(CLOCK_BOOTTIME, &now);
	hello.uptime_ms = now.tv_sec * 1000 + now.tv_nsec / 1000000;
	uname(&system);
	memcpy(payload, &hello, sizeof(hello));
	length = snprintf(payload + sizeof(hello), 128, "%s", system.release);
	send_frame(0, AGENT_HELLO, 0, payload, sizeof(hello) + length);
}

static void send_exit(uint16_t session, uint32_t code, uint32_t signal)
{
	struct agent_exit payload = { .code = code, .signal = signal };

	send_frame(session, AGENT_EXIT, 0, &payload, sizeof(payload));
}

static void send_credit(uint16_t session, uint32_t bytes)
{
	send_frame(session, AGENT_CREDIT, 0, &bytes, sizeof(bytes));
}

static struct session *find_session(uint16_t id)
{
	int i;

	for (i = 0; i < AGENT_SESSIONS_MAX; i++)
		if (sessions[i].id == id)
			return &sessions[i];
	return NULL;
}

static void close_stream(struct session *session, int stream)
{
	if (session->fd[stream] < 0)
		return;
	close(session->fd[stream]);
	session->fd[stream] = -1;
}

static void end_session(struct session *session)
{
	int stream;

	for (stream = 0; stream < 3; stream++)
		close_stream(session, stream);
	free(session->input);
	if (WIFSIGNALED(session->status))
		send_exit(session->id, 0, WTERMSIG(session->status));
	else
		send_exit(session->id, WEXITSTATUS(session->status), 0);
	memset(session, 0, sizeof(*session));
}

/* In the child. Exits as a shell does: 127 not found, 126 not to be run. */
static void run_command(const char *directory, char **arguments,
			char **environment) __attribute__((noreturn));
static void run_command(const char *directory, char **arguments,
			char **environment)
{
	sigset_t none;
	int i;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	setenv("PATH", PATH_DEFAULT, 1);
	setenv("HOME", "/root", 1);
	setenv("TERM", "linux", 0);
	for (i = 0; environment[i]; i++)
		putenv(environment[i]);
	if (chdir(*directory ? directory : "/")) {
		fprintf(stderr, "sealbus: cannot enter %s: %s\n", directory,
			strerror(errno));
		_exit(126);
	}
	execvp(arguments[0], arguments);
	fprintf(stderr, "sealbus: cannot run %s: %s\n", arguments[0],
		strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

static int start_pty(struct session *session, const struct agent_start *start,
		     const char *directory, char **arguments, char **environment)
{
	struct winsize size = {
		.ws_row = start->rows, .ws_col = start->columns,
	};
	int master;

	session->pid = forkpty(&master, NULL, NULL, &size);
	if (session->pid < 0)
		return -errno;
	if (!session->pid)
		run_command(directory, arguments, environment);
	fcntl(master, F_SETFD, FD_CLOEXEC);
	fcntl(master, F_SETFL, O_RDWR | O_NONBLOCK);
	session->fd[0] = fcntl(master, F_DUPFD_CLOEXEC, 0);
	session->fd[1] = master;
	session->fd[2] = -1;
	return 0;
}

static int start_pipes(struct session *session, const char *directory,
		       char **arguments, char **environment)
{
	int pipes[3][2] = { { -1, -1 }, { -1, -1 }, { -1, -1 } };
	int stream, failed;

	for (stream = 0; stream < 3; stream++)
		if (pipe2(pipes[stream], O_CLOEXEC))
			goto close_all;
	session->pid = fork();
	if (session->pid < 0)
		goto close_all;
	if (!session->pid) {
		setsid();
		dup2(pipes[0][0], 0);
		dup2(pipes[1][1], 1);
		dup2(pipes[2][1], 2);
		run_command(directory, arguments, environment);
	}
	for (stream = 0; stream < 3; stream++) {
		int ours = pipes[stream][stream == 0];

		close(pipes[stream][stream != 0]);
		fcntl(ours, F_SETFL, O_NONBLOCK);
		session->fd[stream] = ours;
	}
	return 0;

close_all:
	failed = -errno;
	for (stream = 0; stream < 3; stream++) {
		if (pipes[stream][0] >= 0)
			close(pipes[stream][0]);
		if (pipes[stream][1] >= 0)
			close(pipes[stream][1]);
	}
	return failed;
}

/* A start that cannot be had ends its session at once, with a word on stderr. */
static void refuse(uint16_t id, const char *why)
{
	char line[160];
	int length = snprintf(line, sizeof(line), "sealbus agent: %s\n", why);

	send_frame(id, AGENT_OUTPUT, 2, line, length);
	send_exit(id, 126, 0);
}

static void handle_start(uint16_t id, char *payload, uint32_t length)
{
	static char *strings[AGENT_STRINGS_MAX + 3];
	struct session *session;
	struct agent_start start;
	char *at = payload + sizeof(start), *end = payload + length;
	char **arguments, **environment, *directory;
	unsigned int count, i;
	int failed;

	if (!id || find_session(id))
		return refuse(id, "the session is taken");
	session = find_session(0);
	if (!session)
		return refuse(id, "too many commands run at once");
	if (length <= sizeof(start) || end[-1])
		return refuse(id, "a start frame that does not end");
	memcpy(&start, payload, sizeof(start));
	count = start.arguments + start.environment;
	if (!start.arguments || count > AGENT_STRINGS_MAX)
		return refuse(id, "no argument, or too many");

	/* Layout of strings[]: arguments, NULL, environment, NULL. */
	directory = at;
	at += strlen(at) + 1;
	for (i = 0; i < count; i++) {
		if (at >= end)
			return refuse(id, "a start frame with too few strings");
		strings[i + (i >= start.arguments)] = at;
		at += strlen(at) + 1;
	}
	strings[start.arguments] = NULL;
	strings[count + 1] = NULL;
	arguments = strings;
	environment = strings + start.arguments + 1;

	memset(session, 0, sizeof(*session));
	session->pty = !!(start.flags & AGENT_START_PTY);
	session->input = malloc(AGENT_WINDOW);
	if (!session->input)
		return refuse(id, "out of memory");
	session->input_last = '\n';
	session->credit[1] = session->credit[2] = AGENT_WINDOW;
	failed = session->pty ?
		start_pty(session, &start, directory, arguments, environment) :
		start_pipes(session, directory, arguments, environment);
	if (failed) {
		free(session->input);
		memset(session, 0, sizeof(*session));
		return refuse(id, strerror(-failed));
	}
	session->id = id;
}

static void flush_input(struct session *session)
{
	uint32_t consumed = 0;

	while (session->input_length) {
		uint32_t run = AGENT_WINDOW - session->input_start;
		ssize_t wrote;

		if (run > session->input_length)
			run = session->input_length;
		if (session->fd[0] < 0) {
			wrote = run;	/* nobody reads it any more */
		} else {
			wrote = write(session->fd[0],
				      session->input + session->input_start, run);
			if (wrote < 0 && (errno == EAGAIN || errno == EINTR))
				break;
			if (wrote < 0) {
				close_stream(session, 0);
				continue;
			}
		}
		session->input_start = (session->input_start + wrote) % AGENT_WINDOW;
		session->input_length -= wrote;
		consumed += wrote;
	}
	if (consumed)
		send_credit(session->id, consumed);
	if (session->input_ended && !session->input_length && session->fd[0] >= 0) {
		/*
		 * A terminal has no end of file but this character, and within a
		 * line the first one only hands over the line.
		 */
		if (session->pty)
			(void)!write(session->fd[0], "\4\4",
				     session->input_last == '\n' ? 1 : 2);
		close_stream(session, 0);
	}
}

static void handle_input(struct session *session, const char *bytes, uint32_t length)
{
	uint32_t i;

	if (!length)
		session->input_ended = 1;
	else
		session->input_last = bytes[length - 1];
	if (length > AGENT_WINDOW - session->input_length) {
		say("the host overran the window of session %u", session->id);
		give_up();
	}
	for (i = 0; i < length;) {
		uint32_t at = (session->input_start + session->input_length) % AGENT_WINDOW;
		uint32_t run = AGENT_WINDOW - at;

		if (run > length - i)
			run = length - i;
		memcpy(session->input + at, bytes + i, run);
		session->input_length += run;
		i += run;
	}
	flush_input(session);
}

/* Returns 0 where nothing more can be had now. */
static int forward_output(struct session *session, int stream)
{
	static char bytes[AGENT_PAYLOAD_MAX];
	size_t most = session->credit[stream];
	ssize_t got;

	if (session->fd[stream] < 0)
		return 0;
	if (most > sizeof(bytes))
		most = sizeof(bytes);
	if (session->exited && most > session->left[stream])
		most = session->left[stream];
	if (!most)
		return 0;
	got = read(session->fd[stream], bytes, most);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (got <= 0) {		/* a terminal that was left reads as EIO */
		close_stream(session, stream);
		return 0;
	}
	session->credit[stream] -= got;
	if (session->exited)
		session->left[stream] -= got;
	send_frame(session->id, AGENT_OUTPUT, stream, bytes, got);
	return 1;
}

/*
 * What the command wrote before it ended is sent; what a process that it left
 * behind may write later is not waited for.
 */
static void settle(struct session *session)
{
	int stream;

	for (stream = 1; stream < 3; stream++) {
		while (forward_output(session, stream))
			;
		if (session->fd[stream] >= 0 && session->left[stream] &&
		    !session->credit[stream])
			return;
	}
	end_session(session);
}

/*
 * A process that was left behind may write without end: so much is the
 * command's, at most. A terminal holds less than a window, but does not say.
 */
static void note_left(struct session *session)
{
	int stream;

	for (stream = 1; stream < 3; stream++) {
		int bytes = 0;

		if (session->fd[stream] < 0)
			continue;
		if (session->pty)
			bytes = AGENT_WINDOW;
		else
			ioctl(session->fd[stream], FIONREAD, &bytes);
		session->left[stream] = bytes;
	}
}

static void reap(void)
{
	int status, i;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (i = 0; i < AGENT_SESSIONS_MAX; i++)
			if (sessions[i].id && sessions[i].pid == pid) {
				sessions[i].exited = 1;
				sessions[i].status = status;
				note_left(&sessions[i]);
			}
}

static void handle_frame(const struct agent_frame *frame, char *payload)
{
	struct session *session = frame->session ? find_session(frame->session) : NULL;
	uint32_t value = 0;

	if (frame->length >= sizeof(value))
		memcpy(&value, payload, sizeof(value));
	switch (frame->type) {
	case AGENT_START:
		handle_start(frame->session, payload, frame->length);
		return;
	case AGENT_POWER_OFF:
		power_off();
		return;
	case AGENT_GREET:
		send_hello();
		return;
	}
	/* Frames for a session that has just ended cross its exit: no fault. */
	if (!session)
		return;
	switch (frame->type) {
	case AGENT_STDIN:
		handle_input(session, payload, frame->length);
		return;
	case AGENT_SIGNAL:
		/* A child that has just been forked is in our process group yet. */
		if (value && value < NSIG && !session->exited &&
		    kill(-session->pid, value))
			kill(session->pid, value);
		return;
	case AGENT_WINDOW_SIZE:
		if (session->pty && session->fd[1] >= 0) {
			struct winsize size = {
				.ws_row = value & 0xffff, .ws_col = value >> 16,
			};

			ioctl(session->fd[1], TIOCSWINSZ, &size);
		}
		return;
	case AGENT_CREDIT:
		if ((frame->stream == 1 || frame->stream == 2) &&
		    value <= AGENT_WINDOW - session->credit[frame->stream])
			session->credit[frame->stream] += value;
		return;
	}
}

static void read_port(void)
{
	static char buffer[sizeof(struct agent_frame) + AGENT_PAYLOAD_MAX];
	static size_t filled;
	size_t at = 0;
	ssize_t got = read(port, buffer + filled, sizeof(buffer) - filled);

	if (got < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (got <= 0)
		give_up();	/* the host has left */
	filled += got;
	while (filled - at >= sizeof(struct agent_frame)) {
		struct agent_frame frame;

		memcpy(&frame, buffer + at, sizeof(frame));
		if (frame.length > AGENT_PAYLOAD_MAX) {
			say("a frame of %u bytes from the host", frame.length);
			give_up();
		}
		if (filled - at < sizeof(frame) + frame.length)
			break;
		handle_frame(&frame, buffer + at + sizeof(frame));
		at += sizeof(frame) + frame.length;
	}
	memmove(buffer, buffer + at, filled - at);
	filled -= at;
}

static int watch_children(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void serve(int children)
{
	struct pollfd fds[2 + 3 * AGENT_SESSIONS_MAX];
	struct signalfd_siginfo info;
	int i, stream;

	for (;;) {
		int count = 2;

		fds[0] = (struct pollfd){ .fd = port, .events = POLLIN };
		fds[1] = (struct pollfd){ .fd = children, .events = POLLIN };
		for (i = 0; i < AGENT_SESSIONS_MAX; i++) {
			struct session *session = &sessions[i];

			if (!session->id || session->exited)
				continue;
			if (session->fd[0] >= 0 && session->input_length)
				fds[count++] = (struct pollfd){
					.fd = session->fd[0], .events = POLLOUT };
			for (stream = 1; stream < 3; stream++)
				if (session->fd[stream] >= 0 && session->credit[stream])
					fds[count++] = (struct pollfd){
						.fd = session->fd[stream],
						.events = POLLIN };
		}
		if (poll(fds, count, -1) < 0 && errno != EINTR)
			give_up();
		if (fds[0].revents)
			read_port();
		if (fds[1].revents) {
			(void)!read(children, &info, sizeof(info));
			reap();
		}
		for (i = 0; i < AGENT_SESSIONS_MAX; i++) {
			struct session *session = &sessions[i];

			if (!session->id)
				continue;
			if (session->exited) {
				settle(session);
				continue;
			}
			flush_input(session);
			forward_output(session, 1);
			forward_output(session, 2);
		}
	}
}

int main(void)
{
	int children;

	is_init = getpid() == 1;
	umask(022);
	if (is_init)
		mount_all();
	else
		clearenv();	/* of what an init tells its services */
	signal(SIGPIPE, SIG_IGN);
	setenv("PATH", PATH_DEFAULT, 1);
	children = watch_children();
	port = open_port();
	if (port < 0) {
		say("no virtio port named " AGENT_PORT_NAME " within %d ms",
		    PORT_WAIT_MS);
		give_up();
	}
	send_hello();
	serve(children);
	return 0;
}
