# shellcheck shell=bash
# The AWS stand-ins. Sourced by lab/up and lab/down, after common.sh.

aws_answers() { in_netns curl -sfo /dev/null --max-time 2 "$LAB_AWS_ENDPOINT/moto-api/"; }
agent_answers() { in_netns curl -so /dev/null --max-time 2 "$LAB_ECS_ENDPOINT/"; }

start_aws() {
  if ! pid_of "$LAB_STATE/run/moto.pid" moto_server >/dev/null; then
    log "starting moto"
    daemon moto "$LAB_VENV/bin/moto_server" -H "$LAB_AWS_IP" -p 5000
  fi
  if ! pid_of "$LAB_STATE/run/ecs-agent.pid" python3 >/dev/null; then
    log "starting the ECS agent stand-in"
    daemon ecs-agent /usr/bin/python3 -B "$LAB_ROOT/aws/ecs_agent.py" --listen "$LAB_ECS_IP:80" --docs "$LAB_ECS_DOCS" --log "$LAB_ECS_LOG"
  fi
}

seed_aws() {
  wait_for moto 60 aws_answers
  wait_for "the ECS agent stand-in" 60 agent_answers
  log "seeding the AWS stand-ins"
  in_netns "$LAB_VENV/bin/python" -B "$LAB_ROOT/aws/seed.py"
}

stop_aws() {
  stop "$LAB_STATE/run/ecs-agent.pid" python3
  stop "$LAB_STATE/run/moto.pid" moto_server
}
