/*
 * errors.h
 *		The SQLSTATEs that dtx reports and that PostgreSQL has no name for.
 *
 * Where PostgreSQL or the SQL standard has a condition that fits, that one is
 * used; class DX holds the rest, and an application can tell them apart. The
 * table in docs/reference.md says of each when it comes, and whether to retry.
 *
 * 0A000 (feature not supported) is not used: for some pools it is the end of
 * a connection, since it may come of a stale prepared statement.
 */
#ifndef DTX_ERRORS_H
#define DTX_ERRORS_H

#include "utils/elog.h"

/* a global transaction's timeout passed (PostgreSQL 17's transaction_timeout) */
#define ERRCODE_DTX_TIMEOUT				MAKE_SQLSTATE('2', '5', 'P', '0', '4')
/* a row is not what the branch left: compensation would overwrite a stranger's change */
#define ERRCODE_DTX_CONFLICT			MAKE_SQLSTATE('D', 'X', '0', '0', '1')
/* the node's identity is not the database's: adopt or reset it */
#define ERRCODE_DTX_IDENTITY			MAKE_SQLSTATE('D', 'X', '0', '0', '2')
/* a branch or a call that the state of its global transaction does not allow */
#define ERRCODE_DTX_BRANCH_STATE		MAKE_SQLSTATE('D', 'X', '0', '0', '3')
/* an account has less than what is to be taken from it */
#define ERRCODE_DTX_INSUFFICIENT_FUNDS	MAKE_SQLSTATE('D', 'X', '0', '0', '4')
/* a handler that raises this refuses its message for good: it becomes a dead letter */
#define ERRCODE_DTX_REFUSED				MAKE_SQLSTATE('D', 'X', '0', '0', '5')
#define DTX_REFUSED_STATE				"DX005"
/*
 * A peer cannot be reached, does not answer, or has ended its session; what it said itself is in
 * DETAIL. Pools and drivers take class 08 and 57P for the end of the connection that they read
 * it on, and throw that away, which is the client's own, and has nothing.
 */
#define ERRCODE_DTX_PEER_UNAVAILABLE	MAKE_SQLSTATE('D', 'X', '0', '0', '6')

#endif							/* DTX_ERRORS_H */
