/*
 * fault.c
 *		What happens at an armed fault point; fault.h has the actions.
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "core/fault.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "utils/guc.h"
#include "utils/varlena.h"

/* Every point there is; t/005_crash.pl crashes at each, and a check compares. */
static const char *const points[] = {
#define POINT(name, side, throws) name,
#include "core/fault_points.h"
#undef POINT
};

typedef enum FaultAction
{
	FAULT_ERROR,
	FAULT_KILL,
	FAULT_STOP,
	FAULT_CUT,
	FAULT_WAIT
} FaultAction;

static const char *const actions[] = {"error", "kill", "stop", "cut", "wait"};

bool		fault_armed = false;
char	   *fault_point_setting = NULL;

static FaultAction armed_action;
static char armed_name[64];

/* Split "name:action"; false when it names no point or no action. */
static bool
parse_setting(const char *value, char *name, FaultAction *action)
{
	const char *colon = strchr(value, ':');
	bool		known = false;

	if (colon == NULL || colon - value >= 64)
		return false;
	memcpy(name, value, colon - value);
	name[colon - value] = '\0';
	for (int i = 0; i < lengthof(points); i++)
		known |= strcmp(points[i], name) == 0;
	for (int i = 0; known && i < lengthof(actions); i++)
	{
		if (strcmp(actions[i], colon + 1) == 0)
		{
			*action = (FaultAction) i;
			return true;
		}
	}
	return false;
}

bool
fault_check_setting(char **newval, void **extra, int source)
{
	char		name[64];
	FaultAction action;

	if (*newval == NULL || (*newval)[0] == '\0')
		return true;
	if (parse_setting(*newval, name, &action))
		return true;
	GUC_check_errdetail("The form is \"name:action\", with the name of a fault point and one of error, kill, stop, cut, wait.");
	return false;
}

void
fault_assign_setting(const char *newval, void *extra)
{
	fault_armed = newval != NULL && newval[0] != '\0' &&
		parse_setting(newval, armed_name, &armed_action);
}

/* Wait, cancellably, until nobody holds the tests' advisory lock. */
static void
wait_for_test(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 1685353504, 1, 2);
	(void) LockAcquire(&tag, ShareLock, false, false);
	LockRelease(&tag, ShareLock, false);
}

void
fault_reached(const char *name, bool may_throw)
{
	if (strcmp(name, armed_name) != 0)
		return;

	switch (armed_action)
	{
		case FAULT_ERROR:
			if (may_throw)
				ereport(ERROR,
						(errcode(ERRCODE_INTERNAL_ERROR),
						 errmsg("fault point \"%s\" reached", name)));
			break;
		case FAULT_KILL:
			write_stderr("dtx: fault point \"%s\": kill\n", name);
			kill(MyProcPid, SIGKILL);
			break;
		case FAULT_STOP:
			write_stderr("dtx: fault point \"%s\": stop\n", name);
			kill(PostmasterPid, SIGQUIT);
			/* the postmaster's SIGQUIT ends this process wherever it is */
			for (;;)
				pause();
			break;
		case FAULT_CUT:
			if (may_throw)
				ereport(FATAL,
						(errcode(ERRCODE_CONNECTION_FAILURE),
						 errmsg("fault point \"%s\" reached", name)));
			break;
		case FAULT_WAIT:
			if (may_throw)
				wait_for_test();
			break;
	}
}
