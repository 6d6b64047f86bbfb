/*
 * callbacks.c
 *		The one transaction callback of the extension.
 *
 * What may fail, fails before the commit. After it, and in an abort, nothing
 * throws: flags are set and the worker is woken.
 */
#include "postgres.h"

#include "access/xact.h"
#include "core/callbacks.h"
#include "core/global.h"
#include "core/leftover.h"
#include "core/participant.h"
#include "core/peer_use.h"
#include "core/read.h"
#include "core/settle.h"
#include "core/shmem.h"
#include "core/tell.h"
#include "msg/message.h"
#include "msg/receivers.h"
#include "net/connection.h"
#include "worker/control.h"

static void
at_xact_event(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			global_pre_commit();
			leftovers_pre_commit();
			participant_pre_commit();
			read_pre_commit();
			message_pre_commit();
			global_decide();
			break;
		case XACT_EVENT_PRE_PREPARE:
			global_pre_prepare();
			participant_pre_prepare();
			read_pre_prepare();
			settle_pre_prepare();
			tell_pre_prepare();
			peer_use_pre_prepare();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			{
				bool		commit = event != XACT_EVENT_ABORT;

				modes_xact_end(commit);
				leftovers_xact_end();
				participant_xact_end(commit);
				read_xact_end();
				settle_xact_end(commit);
				global_xact_end(commit);
				tell_xact_end(commit);
				message_xact_end(event);
				peer_use_xact_end();
				worker_control_xact_end(commit);
				connection_close_in_flight();
			}
			break;
		default:
			break;
	}
}

static void
at_subxact_event(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	modes_subxact_end(event == SUBXACT_EVENT_COMMIT_SUB, id, parent);
	global_subxact_end(event == SUBXACT_EVENT_COMMIT_SUB, id, parent);
	participant_subxact_end(event == SUBXACT_EVENT_COMMIT_SUB, id, parent);
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		receivers_subxact_abort();
		connection_close_in_flight();
	}
}

void
callbacks_register(void)
{
	RegisterXactCallback(at_xact_event, NULL);
	RegisterSubXactCallback(at_subxact_event, NULL);
	peer_use_register();
}
