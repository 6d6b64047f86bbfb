/*
 * xa.c
 *		XA as a mode: what joining and settling mean for it.
 *
 * A branch is a transaction that stays open at the peer, and is prepared before
 * the local commit. Inside it, and prepared with it, is its row in
 * dtx.joined_branch. That row becomes visible when the prepared transaction is
 * committed, and tells "committed already" from "lost" until the coordinator
 * has asked for it. After ROLLBACK PREPARED there is nothing.
 */
#include "postgres.h"

#include "core/mode.h"
#include "xa/xa.h"

static const BranchMode xa_mode = {
	.letter = 'x',
	.name = "xa",
	.run = xa_run,
	.end_phase_one = xa_prepare_all,
	.settle_held = xa_settle_held,
	.list_held = xa_list_held,
	.subxact_end = xa_subxact_end,
	.xact_end = xa_xact_end,
};

void
xa_register(void)
{
	mode_register(&xa_mode);
}
