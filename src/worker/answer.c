/*
 * answer.c
 *		Is what a peer has answered an answer? A peer may be anything.
 */
#include "postgres.h"

#include "core/compat.h"
#include "worker/worker.h"

bool
answer_is_sane(Channel *channel)
{
	RemoteCall *call = &channel->connection.call;
	PGresult   *result = call->results[1];

	switch (channel->calling)
	{
		case CALL_PENDING:
			return remote_has_rows(call, 1, 0, 4);
		case CALL_SETTLE:
			return remote_has_rows(call, 1, 1, 4) &&
				dtx_is_lsn(PQgetvalue(result, PQntuples(result) - 1, 2)) &&
				dtx_is_lsn(PQgetvalue(result, PQntuples(result) - 1, 3));
		default:
			return true;
	}
}
