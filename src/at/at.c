/*
 * at.c
 *		AT as a mode: what joining and settling mean for it.
 *
 * Phase 1 writes the undo log with the branch's changes. Settling with commit
 * deletes it, settling with rollback runs it backwards.
 */
#include "postgres.h"

#include "at/at.h"
#include "at/capture.h"
#include "at/compensate.h"
#include "at/guard.h"
#include "at/image.h"
#include "at/row_lock.h"
#include "at/undo_log.h"
#include "core/global.h"

static PGresult *
at_run(Oid server, Oid role, const RemoteStatement *statement, int flags)
{
	return global_one_call(mode_by_letter('a'), server, role, statement, flags);
}

static void
at_phase_one(PhaseOne *result)
{
	guard_before_phase_one();
	undo_flush(result);
}

static void
at_settle_commit(const JoinedBranch *branch)
{
	if (branch->changes > 0)
		undo_delete(branch);
}

static void
at_subxact_end(bool commit, SubTransactionId id, SubTransactionId parent)
{
	undo_subxact_end(commit, id, parent);
	if (!commit)
		shape_forget();
}

static void
at_xact_end(bool commit)
{
	undo_xact_end(commit);
	row_lock_xact_end();
	capture_xact_end();
	shape_forget();
}

static const BranchMode at_mode = {
	.letter = 'a',
	.name = "at",
	.captures = true,
	.run = at_run,
	.phase_one = at_phase_one,
	.settle_commit = at_settle_commit,
	.settle_rollback = compensate,
	.overlaps = undo_overlaps,
	.worker_start = undo_filter_load,
	.subxact_end = at_subxact_end,
	.xact_end = at_xact_end,
};

void
at_register(void)
{
	mode_register(&at_mode);
}
