// Command remind publishes the reminders of one dose to Carebell, as JSON.
//
//	go run . [-cancel] MEDICATION_ID DOSE_TIME [MINUTES_BEFORE ...]
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// medicationReminder is carebell.v1.MedicationReminder as canonical JSON.
type medicationReminder struct {
	MedicationID    string    `json:"medicationId"`
	ScheduledTime   time.Time `json:"scheduledTime"`
	ReminderMinutes int       `json:"reminderMinutes"`
}

// jobID names a reminder: the same id, whenever and wherever it is published.
func jobID(medicationID string, doseTime time.Time, minutes int) string {
	return fmt.Sprintf("dose:%s:%s:%d", medicationID, doseTime.Format("20060102T150405Z"), minutes)
}

// remind publishes one reminder: at once if it is due, else as a delayed job.
func remind(
	ctx context.Context, js jetstream.JetStream, medicationID string, doseTime time.Time, minutes int,
) (*jetstream.PubAck, error) {
	job := jobID(medicationID, doseTime, minutes)
	body, err := json.Marshal(medicationReminder{medicationID, doseTime, minutes})
	if err != nil {
		return nil, err
	}
	msg := nats.NewMsg("jobs.reminder.medication")
	msg.Data = body
	msg.Header.Set("Carebell-Job-Id", job)
	msg.Header.Set("Carebell-Not-After", doseTime.Add(30*time.Minute).Format(time.RFC3339Nano))
	msg.Header.Set("Content-Type", "application/json")
	due := doseTime.Add(-time.Duration(minutes) * time.Minute)
	if due.After(time.Now()) {
		msg.Subject = "jobs.later.reminder.medication"
		msg.Header.Set("Carebell-At", due.Format(time.RFC3339Nano))
	} else {
		msg.Header.Set("Nats-Msg-Id", job)
	}
	return publish(ctx, js, msg)
}

// publish repeats until a stream acknowledges the job. The id makes repeats safe.
func publish(ctx context.Context, js jetstream.JetStream, msg *nats.Msg) (*jetstream.PubAck, error) {
	waits := []time.Duration{200 * time.Millisecond, time.Second, 5 * time.Second}
	for try := 0; ; try++ {
		ack, err := publishOnce(ctx, js, msg)
		var refusal *jetstream.APIError
		refused := errors.As(err, &refusal) && refusal.Code == 400 || errors.Is(err, nats.ErrMaxPayload)
		// A refused message would be refused again. Anything else: no acknowledgement, no stream or no room.
		if err == nil || refused || try == len(waits) {
			return ack, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(waits[try]):
		}
	}
}

func publishOnce(ctx context.Context, js jetstream.JetStream, msg *nats.Msg) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return js.PublishMsg(ctx, msg)
}

// cancelJob takes a delayed job back. One that is due already still runs.
func cancelJob(ctx context.Context, js jetstream.JetStream, job string) error {
	msg := nats.NewMsg("jobs.cancel")
	msg.Header.Set("Carebell-Job-Id", job)
	_, err := publish(ctx, js, msg)
	return err
}

func run() error {
	cancel := flag.Bool("cancel", false, "take delayed reminders back")
	flag.Parse()
	if flag.NArg() < 2 {
		return errors.New("usage: remind [-cancel] MEDICATION_ID DOSE_TIME [MINUTES_BEFORE ...]")
	}
	medicationID := flag.Arg(0)
	doseTime, err := time.Parse(time.RFC3339, flag.Arg(1))
	if err != nil {
		return err
	}
	doseTime = doseTime.UTC()
	minutesBefore := flag.Args()[2:]
	if len(minutesBefore) == 0 {
		minutesBefore = []string{"0"}
	}

	url := os.Getenv("NATS_URL")
	if url == "" {
		url = nats.DefaultURL
	}
	// A prefix of its own: the application needs no permission for other clients' inboxes.
	prefix := os.Getenv("NATS_INBOX_PREFIX")
	if prefix == "" {
		prefix = "_INBOX_app"
	}
	options := []nats.Option{nats.CustomInboxPrefix(prefix)}
	if creds := os.Getenv("NATS_CREDS"); creds != "" {
		options = append(options, nats.UserCredentials(creds))
	}
	nc, err := nats.Connect(url, options...)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}

	ctx := context.Background()
	for _, text := range minutesBefore {
		minutes, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		job := jobID(medicationID, doseTime, minutes)
		if *cancel {
			if err := cancelJob(ctx, js, job); err != nil {
				return err
			}
			fmt.Printf("%s is taken back\n", job)
			continue
		}
		ack, err := remind(ctx, js, medicationID, doseTime, minutes)
		if err != nil {
			return err
		}
		fmt.Printf("%s is in %s as %d\n", job, ack.Stream, ack.Sequence)
	}
	return nil
}

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
