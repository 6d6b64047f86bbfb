/*
 * connection.c
 *		Opening, greeting, caching, checking and closing connections to peers.
 */
#include "postgres.h"

#include <errno.h>
#include <sys/socket.h>

#include "core/compat.h"
#include "core/errors.h"
#include "guc.h"
#include "miscadmin.h"
#include "net/connection.h"
#include "net/peer.h"
#include "net/remote.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

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
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
}

static uint64 last_serial = 0;

PeerConnection *
connection_start(Oid server, Oid role)
{
	PeerParams *params = peer_params(server, role);
	PeerConnection *pc;

	if (!callbacks_registered)
	{
		CacheRegisterSyscacheCallback(FOREIGNSERVEROID, forget_options, (Datum) 0);
		CacheRegisterSyscacheCallback(USERMAPPINGOID, forget_options, (Datum) 0);
		callbacks_registered = true;
	}
	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
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
	pc->conn = PQconnectStartParams(params->keywords, params->values, false);
	if (pc->conn != NULL)
		(void) PQsetnonblocking(pc->conn, 1);
	return pc;
}

PostgresPollingStatusType
connection_poll(PeerConnection *pc)
{
	if (pc->conn == NULL || PQstatus(pc->conn) == CONNECTION_BAD)
		return PGRES_POLLING_FAILED;
	return PQconnectPoll(pc->conn);
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
	if (pc->holds_fd)
		ReleaseExternalFD();
	if (pc->statements != NULL)
		hash_destroy(pc->statements);
	pfree(pc);
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
	if (!PQconsumeInput(pc->conn) || PQstatus(pc->conn) != CONNECTION_OK)
		return true;
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
			(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
			 errmsg("could not connect to server \"%s\"", pc->server_name),
			 errdetail_internal("%s", why)));
}

/* Poll the connection until it stands. The socket may change on the way. */
static void
wait_connected(PeerConnection *pc, TimestampTz deadline)
{
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	if (pc->conn == NULL)
		throw_unconnected(pc, "out of memory");
	if (PQstatus(pc->conn) == CONNECTION_BAD)
		throw_unconnected(pc, pchomp(PQerrorMessage(pc->conn)));
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
								   PQsocket(pc->conn), timeout, PG_WAIT_EXTENSION);
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
			throw_unconnected(pc, pchomp(PQerrorMessage(pc->conn)));
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
void
connection_greet(PeerConnection *pc, TimestampTz deadline)
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
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("server \"%s\" speaks another version of dtx's protocol", pc->server_name),
					 errdetail("It speaks version %s, this one version %d.",
							   PQgetvalue(result, 0, 1), DTX_PROTOCOL_VERSION),
					 errhint("Install the same version of dtx on both.")));
		if (PQgetvalue(result, 0, 3)[0] == 't')
			ereport(ERROR,
					(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
					 errmsg("server \"%s\" is in recovery", pc->server_name),
					 errdetail("A hot standby cannot take part in a global transaction."),
					 errhint("Let the server name the primary, with target_session_attrs 'read-write' for example.")));
		strlcpy(pc->peer_node, remote_text(PQgetvalue(result, 0, 0), sizeof(pc->peer_node) - 1), sizeof(pc->peer_node));
		strlcpy(pc->peer_version, remote_text(PQgetvalue(result, 0, 2), sizeof(pc->peer_version) - 1), sizeof(pc->peer_version));
		pc->ready = true;
	}
	PG_FINALLY();
	{
		remote_free(&call);
	}
	PG_END_TRY();
}

static PeerConnection *
find_cached(Oid server, Oid role)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &cache)
	{
		PeerConnection *pc = dlist_container(PeerConnection, node, iter.cur);

		if (pc->server != server || pc->role != role || pc->holder != NULL)
			continue;
		if (pc->ready && !pc->in_flight && !pc->invalidated && !connection_is_dead(pc))
			return pc;
		dlist_delete(&pc->node);
		connection_close(pc);
	}
	return NULL;
}

PeerConnection *
connection_get(Oid server, Oid role, TimestampTz deadline)
{
	PeerConnection *pc = find_cached(server, role);
	volatile TimestampTz until;

	if (pc != NULL)
		return pc;
	until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), guc_connect_timeout);
	if (deadline != 0 && deadline < until)
		until = deadline;

	pc = connection_start(server, role);
	PG_TRY();
	{
		wait_connected(pc, until);
		connection_greet(pc, until);
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
