/*
 * leftover.c
 *		What others' code leaves in a session that goes on to serve others.
 *
 * A connection between nodes runs one branch after the other, confirms and
 * handlers of many transactions; so does a process that handles messages. What
 * a session keeps beyond a transaction would be found by the next of them:
 *
 *	settings		end with their own level: participant.c, handler.c, tcc.c, half.c
 *	advisory locks of the session
 *					are released. Nobody else would: another session that waits for
 *					one would wait for the connection to be closed
 *	temporary tables
 *					are dropped, after each function of a batch too
 *	currval, lastval, and numbers that a sequence with CACHE has set aside
 *					are forgotten
 *	prepared statements, LISTEN, DISCARD, LOAD, cursors WITH HOLD
 *					are refused: escape.c
 *
 * No look at the peer, and no round trip, finds them: a session that has none of
 * it pays for a walk through its own table of locks, which every transaction's
 * end does twice anyway, and for two tests. What a procedural language
 * keeps in variables of its own, such as PL/Perl's %_SHARED, is out of reach.
 *
 * A crash leaves nothing of it: it is all the process's own.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/sequence.h"
#include "core/leftover.h"
#include "core/participant.h"
#include "storage/lock.h"
#include "utils/snapmgr.h"

static bool lent = false;		/* until the transaction ends */
static bool lent_always = false;

void
session_lend(void)
{
	lent = true;
}

void
session_lend_always(void)
{
	lent_always = true;
}

bool
session_is_lent(void)
{
	return lent || lent_always || (current_branch.active && !(current_branch.flags & JOIN_OWN_SESSION));
}

static void
drop_temporary(void)
{
	if (!(MyXactFlags & XACT_FLAGS_ACCESSEDTEMPNAMESPACE))
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	ResetTempTableNamespace();
	PopActiveSnapshot();
	CommandCounterIncrement();
}

void
leftovers_release(void)
{
	if (!session_is_lent())
		return;
	/* what dtx itself locks so is the transaction's */
	LockReleaseSession(USER_LOCKMETHOD);
	ResetSequenceCaches();
}

void
leftovers_clear(void)
{
	if (!session_is_lent())
		return;
	drop_temporary();
	leftovers_release();
}

void
leftovers_pre_commit(void)
{
	/* its changes are not visible yet: the locks stay that long */
	if (session_is_lent())
		drop_temporary();
}

void
leftovers_xact_end(void)
{
	leftovers_release();
	lent = false;
}
