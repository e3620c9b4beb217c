Feature: How probable the tokens were

  Scenario: The most probable tokens, in the shape of 2024
    When I ask for a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 4, "temperature": 0, "repeat_penalty": 1, "n_probs": 3}
      """
    Then the answer's "completion_probabilities" has 4 entries
    And every token has 3 probabilities, the highest first
    And the answer's "completion_probabilities.0.probs.0.tok_str" is " Paris"
    And the answer's "completion_probabilities.0.content" is " Paris"
    And the answer's "generation_settings.n_probs" is 3

  Scenario: They are the model's own, whatever the options do
    When I ask for a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 1, "temperature": 5, "top_k": 1, "logit_bias": [[" Paris", false]], "n_probs": 2}
      """
    Then the answer's "completion_probabilities.0.probs.0.tok_str" is " Paris"
    And every token has 2 probabilities, the highest first

  Scenario: Those that the token was drawn by
    When I ask for a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 2, "top_k": 1, "n_probs": 5, "post_sampling_probs": true}
      """
    Then every token has 1 probabilities, the highest first
    And the answer's "completion_probabilities.1.probs.0.prob" is 1

  Scenario: Nobody gets them who does not ask
    When I ask for a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 2}
      """
    Then the answer has no "completion_probabilities"

  Scenario: A stream tells them at its end
    When I stream a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 3, "temperature": 0, "n_probs": 2}
      """
    Then every piece but the last has only content and stop
    And the last piece has 3 "completion_probabilities"

  Scenario: Log-probabilities as OpenAI tells them
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."}], "max_tokens": 12, "temperature": 0, "logprobs": true, "top_logprobs": 2}
      """
    Then the tokens of the log-probabilities spell the text
    And each has 2 alternatives, the most probable first

  Scenario: A stream of log-probabilities
    When I stream a chat:
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."}], "max_tokens": 12, "temperature": 0, "logprobs": true}
      """
    Then the tokens of the log-probabilities spell the text
    And each has 0 alternatives, the most probable first

  Scenario: Without them the field is null
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
      """
    Then the answer's "choices.0.logprobs" is null

  Scenario Outline: Bad input: <body> to <path>
    When I post to "<path>" as "application/json":
      """
      {<body>, "messages": [{"role": "user", "content": "a"}], "prompt": "a"}
      """
    Then the status is 400
    And the error's param is "<param>"

    Examples:
      | path                 | body                                  | param               |
      | /completion          | "n_probs": -1                         | n_probs             |
      | /completion          | "n_probs": 1001                       | n_probs             |
      | /completion          | "n_probs": "all"                      | n_probs             |
      | /completion          | "post_sampling_probs": 1              | post_sampling_probs |
      | /v1/chat/completions | "logprobs": 3                         | logprobs            |
      | /v1/chat/completions | "logprobs": true, "top_logprobs": 21  | top_logprobs        |
      | /v1/chat/completions | "top_logprobs": 2                     | top_logprobs        |
