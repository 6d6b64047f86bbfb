/*
 * connection.c
 *		Opening, greeting, caching, checking and closing connections to peers.
 */
#include "postgres.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/compat.h"
#include "core/errors.h"
#include "guc.h"
#include "miscadmin.h"
#include "net/connection.h"
#include "net/dial.h"
#include "net/peer.h"
#include "net/remote.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define ERROR_LENGTH	900		/* bytes of an error of libpq's */
#define MAX_UNASKED		1000	/* times that a peer may say something unasked */
#define MAX_HANDSHAKE	(64 * 1024 * 1024)	/* bytes that a peer may make this process grow by until it is connected */

static dlist_head cache = DLIST_STATIC_INIT(cache);
static dlist_head all = DLIST_STATIC_INIT(all);
static bool callbacks_registered = false;

/* (server, role) pairs behind a pooler that swaps sessions under prepared statements. */
#define SWAPPING_PEERS	16
static struct
{
	Oid			server;
	Oid			role;
}			swapping[SWAPPING_PEERS];
static int	nswapping = 0;

static bool
is_swapping(Oid server, Oid role)
{
	for (int i = 0; i < Min(nswapping, SWAPPING_PEERS); i++)
		if (swapping[i].server == server && swapping[i].role == role)
			return true;
	return false;
}

void
connection_use_unnamed(PeerConnection *pc)
{
	pc->unnamed_only = true;
	if (is_swapping(pc->server, pc->role))
		return;
	swapping[nswapping % SWAPPING_PEERS].server = pc->server;
	swapping[nswapping % SWAPPING_PEERS].role = pc->role;
	nswapping++;
}

/* A server or a mapping changed: connections made from it are not used again. */
static void
forget_options(Datum arg, int cacheid, uint32 hashvalue)
{
	dlist_iter	iter;

	nswapping = 0;
	dlist_foreach(iter, &all)
	{
		PeerConnection *pc = dlist_container(PeerConnection, all_node, iter.cur);

		if (hashvalue == 0 ||
			(cacheid == FOREIGNSERVEROID && pc->server_hash == hashvalue) ||
			(cacheid == USERMAPPINGOID && pc->mapping_hash == hashvalue))
			pc->invalidated = true;
	}
}

long
deadline_remaining(TimestampTz deadline)
{
	if (deadline == 0)
		return -1;
	/* rounded up, so that nobody spins through the last millisecond */
	return clock_remaining(deadline);
}

static uint64 last_serial = 0;

/* libpq would write it to the server's log as it is. The peer has written it to its own. */
static void
take_notice(void *arg, const PGresult *result)
{
	const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

	if (message == NULL || !message_level_is_interesting(DEBUG1))
		return;
	ereport(DEBUG1,
			(errmsg_internal("notice of server \"%s\": %s", ((PeerConnection *) arg)->server_name,
							 remote_text(message, ERROR_LENGTH))));
}

/* Let libpq begin, once the names are known. */
static void
begin(PeerConnection *pc)
{
	if (pc->failure != NULL || !dial_ready(pc->dial))
		return;
	pc->failure = dial_check_files(pc->dial);
	if (pc->failure != NULL)
		return;
	pc->conn = dial_connect(pc->dial, &pc->failure);
	if (pc->conn == NULL)
		return;
	(void) PQsetnonblocking(pc->conn, 1);
	(void) PQsetNoticeReceiver(pc->conn, take_notice, pc);
}

PeerConnection *
connection_start(Oid server, Oid role)
{
	PeerParams *params = peer_params(server, role);
	Dial	   *dial = dial_new(params, role, CurrentMemoryContext);
	PeerConnection *pc;

	if (!callbacks_registered)
	{
		CacheRegisterSyscacheCallback(FOREIGNSERVEROID, forget_options, (Datum) 0);
		CacheRegisterSyscacheCallback(USERMAPPINGOID, forget_options, (Datum) 0);
		callbacks_registered = true;
	}
	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not connect to server \"%s\"", params->server_name),
				 errdetail("There are too many open files on the local server.")));

	pc = MemoryContextAllocZero(TopMemoryContext, sizeof(PeerConnection));
	pc->holds_fd = true;
	dlist_push_tail(&all, &pc->all_node);
	pc->server = server;
	pc->role = role;
	pc->unnamed_only = is_swapping(server, role);
	pc->mapping = params->mapping;
	strlcpy(pc->server_name, params->server_name, NAMEDATALEN);
	pc->needs_password = params->needs_password;
	pc->server_hash = GetSysCacheHashValue1(FOREIGNSERVEROID, ObjectIdGetDatum(server));
	pc->mapping_hash = GetSysCacheHashValue1(USERMAPPINGOID, ObjectIdGetDatum(params->mapping));
	pc->serial = ++last_serial;
	pc->in_flight = true;		/* not to be used before it is ready */
	pc->dial = dial;
	MemoryContextSetParent(dial_context(dial), TopMemoryContext);
	pc->failure = dial_start(dial);
	begin(pc);
	return pc;
}

PostgresPollingStatusType
connection_poll(PeerConnection *pc)
{
	PostgresPollingStatusType status;
	Size		before;

	if (pc->dial == NULL)
		return PGRES_POLLING_OK;
	if (pc->conn == NULL)
	{
		begin(pc);
		return pc->failure != NULL ? PGRES_POLLING_FAILED :
			pc->conn == NULL ? PGRES_POLLING_READING : PGRES_POLLING_WRITING;
	}
	/* the next step may read them */
	pc->failure = dial_check_files(pc->dial);
	if (pc->failure != NULL || PQstatus(pc->conn) == CONNECTION_BAD)
		return PGRES_POLLING_FAILED;
	before = process_size();
	status = PQconnectPoll(pc->conn);
	pc->growth += Max(process_size(), before) - before;
	if (pc->growth > MAX_HANDSHAKE)
	{
		pc->failure = "the peer has sent too much before it was connected";
		return PGRES_POLLING_FAILED;
	}
	if (status == PGRES_POLLING_OK)
	{
		dial_free(pc->dial);
		pc->dial = NULL;
	}
	return status;
}

pgsocket
connection_socket(PeerConnection *pc)
{
	return pc->conn == NULL ? dial_socket(pc->dial) : PQsocket(pc->conn);
}

char *
connection_error(PeerConnection *pc)
{
	return pc->failure != NULL ? remote_text(pc->failure, ERROR_LENGTH) :
		pc->conn == NULL ? pstrdup("it is not connected") : remote_lines(pchomp(PQerrorMessage(pc->conn)), ERROR_LENGTH);
}

bool
connection_has_failed(PeerConnection *pc)
{
	return pc->failure != NULL || (pc->conn != NULL && PQstatus(pc->conn) == CONNECTION_BAD);
}

bool
connection_password_ok(PeerConnection *pc)
{
	return !pc->needs_password || PQconnectionUsedPassword(pc->conn);
}

void
connection_close(PeerConnection *pc)
{
	dlist_delete(&pc->all_node);
	if (pc->holder != NULL)
		*pc->holder = NULL;
	if (pc->waits != NULL)
		FreeWaitEventSet(pc->waits);
	if (pc->conn != NULL)
		PQfinish(pc->conn);
	if (pc->dial != NULL)
		dial_free(pc->dial);
	if (pc->holds_fd)
		ReleaseExternalFD();
	if (pc->statements != NULL)
		hash_destroy(pc->statements);
	pfree(pc);
}

void
connection_drop_notifications(PeerConnection *pc)
{
	PGnotify   *notification;

	while ((notification = PQnotifies(pc->conn)) != NULL)
		PQfreemem(notification);
}

Size
process_size(void)
{
	int			fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	char		text[128];
	ssize_t		length = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	char	   *resident;

	if (fd >= 0)
		close(fd);
	if (length <= 0)
		return 0;
	text[length] = '\0';
	resident = strchr(text, ' ');
	return resident == NULL ? 0 : (Size) strtoul(resident, NULL, 10) * sysconf(_SC_PAGESIZE);
}

bool
connection_is_dead(PeerConnection *pc)
{
	char		byte;
	ssize_t		got;

	if (PQstatus(pc->conn) != CONNECTION_OK)
		return true;
	got = recv(PQsocket(pc->conn), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	if (got < 0)
		return errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR;
	if (got == 0)
		return true;
	/* it said something unasked: a notice, or the farewell of a shutdown */
	if (pc->trailing == 0 && ++pc->unasked > MAX_UNASKED)
		return true;
	if (!PQconsumeInput(pc->conn) || PQstatus(pc->conn) != CONNECTION_OK)
		return true;
	(void) PQisBusy(pc->conn);
	connection_drop_notifications(pc);
	return recv(PQsocket(pc->conn), &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

bool
connection_wait(PeerConnection *pc, uint32 events, TimestampTz deadline)
{
	WaitEvent	event;
	long		timeout = deadline_remaining(deadline);

	if (timeout == 0)
		return false;
	if (pc->waits == NULL)
	{
		pc->waits = dtx_create_wait_event_set(3);
		AddWaitEventToSet(pc->waits, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		AddWaitEventToSet(pc->waits, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
		AddWaitEventToSet(pc->waits, events, PQsocket(pc->conn), NULL, NULL);
		pc->waits_events = events;
	}
	if (pc->waits_events != events)
	{
		ModifyWaitEvent(pc->waits, 2, events, NULL);
		pc->waits_events = events;
	}
	if (WaitEventSetWait(pc->waits, timeout, &event, 1, PG_WAIT_EXTENSION) > 0 &&
		(event.events & WL_LATCH_SET))
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

static void
throw_unconnected(PeerConnection *pc, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_DTX_PEER_UNAVAILABLE),
			 errmsg("could not connect to server \"%s\"", pc->server_name),
			 errdetail_internal("%s", why)));
}

/* Poll the connection until it stands. The socket may change on the way. */
static void
wait_connected(PeerConnection *pc, TimestampTz deadline)
{
	PostgresPollingStatusType status = pc->conn == NULL ? PGRES_POLLING_READING : PGRES_POLLING_WRITING;

	if (connection_has_failed(pc))
		throw_unconnected(pc, connection_error(pc));
	for (;;)
	{
		long		timeout = deadline_remaining(deadline);
		int			events;

		if (timeout == 0)
			throw_unconnected(pc, "The timeout expired (dtx.connect_timeout).");
		events = WaitLatchOrSocket(MyLatch,
								   WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT |
								   (status == PGRES_POLLING_READING ?
									WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE),
								   connection_socket(pc), timeout, PG_WAIT_EXTENSION);
		if (events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
		if (!(events & (WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE)))
			continue;
		status = connection_poll(pc);
		if (status == PGRES_POLLING_OK)
			break;
		if (status == PGRES_POLLING_FAILED)
			throw_unconnected(pc, connection_error(pc));
	}
	if (!connection_password_ok(pc))
		ereport(ERROR,
				(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
				 errmsg("password is required"),
				 errdetail("Server \"%s\" did not ask for the password of the user mapping.",
						   pc->server_name),
				 errhint("The server's authentication method must be changed, or a superuser sets password_required 'false' in the user mapping.")));
	pc->in_flight = false;
}

/* The peer's dtx says who it is; who has none is told so. */
static void
greet(PeerConnection *pc, TimestampTz deadline, bool reads)
{
	RemoteCall	call = {.pc = pc, .nstatements = 1, .greets = true};
	char		version[16];
	const char *values[1] = {version};

	snprintf(version, sizeof(version), "%d", DTX_PROTOCOL_VERSION);
	call.statements[0].sql = HELLO_SQL;
	call.statements[0].once = true;
	call.statements[0].nparams = 1;
	call.statements[0].values = values;

	PG_TRY();
	{
		PGresult   *result;

		remote_run(&call, deadline);
		if (call.error != NULL && call.failed_statement == 0)
		{
			const char *state = PQresultErrorField(call.error, PG_DIAG_SQLSTATE);

			if (state != NULL && (strcmp(state, "3F000") == 0 || strcmp(state, "42883") == 0))
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("server \"%s\" has no extension dtx", pc->server_name),
						 errhint("Run CREATE EXTENSION dtx in the database that the server names.")));
		}
		if (call.error != NULL || call.broken)
			remote_throw(&call);
		if (!remote_has_rows(&call, 0, 1, 4))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_REPLY_HANDLE),
					 errmsg("server \"%s\" gave an unexpected answer", pc->server_name)));
		result = call.results[0];
		if (atoi(PQgetvalue(result, 0, 1)) != DTX_PROTOCOL_VERSION)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("server \"%s\" speaks another version of dtx's protocol", pc->server_name),
					 errdetail("It speaks version %s, this one version %d.",
							   remote_text(PQgetvalue(result, 0, 1), 40), DTX_PROTOCOL_VERSION),
					 errhint("Install the same version of dtx on both.")));
		pc->standby = PQgetvalue(result, 0, 3)[0] == 't';
		if (pc->standby && !reads)
			ereport(ERROR,
					(errcode(ERRCODE_DTX_PEER_UNAVAILABLE),
					 errmsg("server \"%s\" is in recovery", pc->server_name),
					 errdetail("A hot standby cannot take part in a global transaction."),
					 errhint("Let the server name the primary, with target_session_attrs 'read-write' for example.")));
		strlcpy(pc->peer_node, remote_id(PQgetvalue(result, 0, 0), sizeof(pc->peer_node) - 1), sizeof(pc->peer_node));
		strlcpy(pc->peer_version, remote_text(PQgetvalue(result, 0, 2), sizeof(pc->peer_version) - 1), sizeof(pc->peer_version));
		pc->ready = true;
	}
	PG_FINALLY();
	{
		remote_free(&call);
	}
	PG_END_TRY();
}

void
connection_greet(PeerConnection *pc, TimestampTz deadline)
{
	greet(pc, deadline, false);
}

static PeerConnection *
find_cached(Oid server, Oid role, bool reads)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &cache)
	{
		PeerConnection *pc = dlist_container(PeerConnection, node, iter.cur);

		if (pc->server != server || pc->role != role || pc->holder != NULL || (pc->standby && !reads))
			continue;
		if (pc->ready && !pc->in_flight && !pc->invalidated && !connection_is_dead(pc))
			return pc;
		dlist_delete(&pc->node);
		connection_close(pc);
	}
	return NULL;
}

static PeerConnection *
get(Oid server, Oid role, TimestampTz deadline, bool reads)
{
	PeerConnection *pc = find_cached(server, role, reads);
	volatile TimestampTz until;

	if (pc != NULL)
		return pc;
	until = TimestampTzPlusMilliseconds(clock_now(), guc_connect_timeout);
	if (deadline != 0 && deadline < until)
		until = deadline;

	pc = connection_start(server, role);
	PG_TRY();
	{
		wait_connected(pc, until);
		greet(pc, until, reads);
	}
	PG_CATCH();
	{
		connection_close(pc);
		PG_RE_THROW();
	}
	PG_END_TRY();
	dlist_push_head(&cache, &pc->node);
	return pc;
}

PeerConnection *
connection_get(Oid server, Oid role, TimestampTz deadline)
{
	return get(server, role, deadline, false);
}

PeerConnection *
connection_get_to_read(Oid server, Oid role)
{
	return get(server, role, 0, true);
}

void
connection_close_in_flight(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &cache)
	{
		PeerConnection *pc = dlist_container(PeerConnection, node, iter.cur);

		if (!pc->in_flight)
			continue;
		dlist_delete(&pc->node);
		connection_close(pc);
	}
}
