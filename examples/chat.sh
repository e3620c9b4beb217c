#!/usr/bin/env bash
# A conversation with the server in a terminal, by bash, curl and jq: each line is a turn, and the end of the input
# ends it.
#
#   bash chat.sh [http://127.0.0.1:8080]      also: API_URL, API_KEY
#   printf 'Hello.\nAnd now?\n' | bash chat.sh
set -euo pipefail

API_URL=${1:-${API_URL:-http://127.0.0.1:8080}}
API_URL=${API_URL%/}
API_KEY=${API_KEY:-}
PREAMBLE='A person talks with an assistant. The assistant gives short, friendly and true answers.'
USER_TURN=$'\nPerson: '
ASSISTANT_TURN=$'\nAssistant:'
MOST_TOKENS=256

fail() {
  echo "chat.sh: $1" >&2
  exit 1
}

# post PATH: sends standard input as JSON.
post() {
  # The key goes by a file descriptor: arguments can be seen by everybody on the machine.
  curl --silent --show-error --no-buffer --data-binary @- --header 'Content-Type: application/json' \
    --config <([[ -z $API_KEY ]] || jq --null-input --raw-output --arg key "$API_KEY" \
      '"header = \("Authorization: Bearer \($key)" | tojson)"') \
    "$API_URL$1"
}

# Prints the text of an event stream as it comes, then ends; the whole text is left in `answer`.
read_answer() {
  answer=
  local line text
  while IFS= read -r line; do
    line=${line#data: }
    [[ $line == '{'* ]] || continue
    text=$(jq --raw-output 'if .error then "e" + .error.message else "t" + .content + "." end' <<<"$line")
    [[ $text == t* ]] || fail "${text#e}"
    # The full stop kept `$(…)` from taking line ends away.
    text=${text#t}
    text=${text%.}
    printf '%s' "$text"
    answer+=$text
    if [[ $(jq .stop <<<"$line") == true ]]; then
      slot=$(jq '.id_slot // -1' <<<"$line")
      return
    fi
  done
  fail "the answer broke off"
}

# What is kept of the beginning when the conversation outgrows the context.
kept=$(jq --null-input --arg content "$PREAMBLE" '{$content}' | post /tokenize) || fail "$API_URL does not answer"
keep=$(jq '.tokens | length' <<<"$kept" 2>/dev/null) || fail "$API_URL is no server for language models"
message=$(jq --raw-output '.error.message // empty' <<<"$kept")
[[ -z $message ]] || fail "$message"

conversation=$PREAMBLE
slot=-1
[[ ! -t 0 ]] || echo 'Write a line; Ctrl+D ends.' >&2
while { [[ ! -t 0 ]] || printf '> ' >&2; } && { IFS= read -r said || [[ -n $said ]]; }; do
  [[ -n $said ]] || continue
  conversation+=$USER_TURN$said$ASSISTANT_TURN
  request=$(jq --null-input --arg prompt "$conversation" --arg stop "${USER_TURN% }" \
    --argjson keep "$keep" --argjson slot "$slot" --argjson most "$MOST_TOKENS" \
    '{$prompt, stream: true, cache_prompt: true, id_slot: $slot, n_keep: $keep, n_predict: $most,
      stop: [$stop], temperature: 0.4}')
  exec 3< <(post /completion <<<"$request")
  read_answer <&3
  exec 3<&-
  echo
  conversation+=$answer
done
[[ ! -t 0 ]] || echo >&2
