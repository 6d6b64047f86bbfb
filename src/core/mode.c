/*
 * mode.c
 *		The table of modes.
 */
#include "postgres.h"

#include "core/mode.h"

#define MAX_MODES 8

static const BranchMode *modes[MAX_MODES];
static int	nmodes = 0;

void
mode_register(const BranchMode *mode)
{
	Assert(nmodes < MAX_MODES);
	modes[nmodes++] = mode;
}

const BranchMode *
mode_by_letter(char letter)
{
	for (int i = 0; i < nmodes; i++)
		if (modes[i]->letter == letter)
			return modes[i];
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("mode \"%c\" of a branch is not known to this version of dtx", letter)));
}

const BranchMode *
mode_by_name(const char *name)
{
	for (int i = 0; i < nmodes; i++)
		if (strcmp(modes[i]->name, name) == 0)
			return modes[i];
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized mode of a global transaction: \"%s\"", name),
			 errhint("The mode is 'at', 'xa' or 'tcc'.")));
}

void
modes_worker_start(void)
{
	for (int i = 0; i < nmodes; i++)
		if (modes[i]->worker_start)
			modes[i]->worker_start();
}

void
modes_end_phase_one(void)
{
	for (int i = 0; i < nmodes; i++)
		if (modes[i]->end_phase_one)
			modes[i]->end_phase_one();
}

void
modes_forget(Datum *keys, int count)
{
	for (int i = 0; i < nmodes; i++)
		if (modes[i]->forget)
			modes[i]->forget(keys, count);
}

bool
modes_settle_held(const JoinedBranch *branch, bool commit)
{
	for (int i = 0; i < nmodes; i++)
		if (modes[i]->settle_held && modes[i]->settle_held(branch, commit))
			return true;
	return false;
}

List *
modes_list_held(void)
{
	List	   *held = NIL;

	for (int i = 0; i < nmodes; i++)
		if (modes[i]->list_held)
			held = modes[i]->list_held(held);
	return held;
}

void
modes_subxact_end(bool commit, SubTransactionId id, SubTransactionId parent)
{
	for (int i = 0; i < nmodes; i++)
		if (modes[i]->subxact_end)
			modes[i]->subxact_end(commit, id, parent);
}

void
modes_xact_end(bool commit)
{
	for (int i = 0; i < nmodes; i++)
		if (modes[i]->xact_end)
			modes[i]->xact_end(commit);
}
