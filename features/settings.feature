Feature: What the server is set to

  Scenario: The props
    When I ask for the props
    Then the status is 200
    And the answer's "total_slots" is 4
    And the answer's "assistant_name" is ""
    And the answer's "default_generation_settings.temperature" is 0.8
    And the answer's "default_generation_settings.n_ctx" is 512
    And the answer's "cache_tokens" is 2048
    And the answer's "deterministic" is true
    And the answer's "attention" is "paged"
    And the answer's "chat_template" contains "<|im_start|>"
    And the answer's "user_name" is ""
    And the answer's "default_generation_settings.n_predict" is -1
    And the answer's "default_generation_settings.n_keep" is 0
    And the answer's "default_generation_settings.n_probs" is 0
    And the answer's "default_generation_settings.seed" is -1
    And the answer's "default_generation_settings.stop" is []
    And the answer's "default_generation_settings.stream" is false
    And the answer's "default_generation_settings.grammar" is ""
    And the answer's "default_generation_settings.model" is "smollm2"
    And the answer's "default_generation_settings.params.temperature" is 0.8
    And the answer's "default_generation_settings.params.n_predict" is -1
    And the answer's "modalities" is {"vision": false, "audio": false}
    And the answer's "eos_token" is "<|im_end|>"

  Scenario: The models
    When I ask for the models
    Then the status is 200
    And the answer's "data.0.id" is "smollm2"
    When I ask for the model "smollm2"
    Then the status is 200
    And the answer's "id" is "smollm2"
    When I ask for the model "another"
    Then the status is 404
    And the error says "another"

  Scenario: The models as today's llama.cpp lists them
    When I get "/models"
    Then the status is 200
    And the answer's "data.0.id" is "smollm2"
    And the answer's "models.0.name" is "smollm2"
    And the answer's "models.0.capabilities" is ["completion"]
    And the answer's "models.0.details.family" is "llama"
    When I get "/models/smollm2"
    Then the answer's "id" is "smollm2"

  Scenario: Another path of the health
    When I get "/v1/health"
    Then the status is 200
    And the answer's "status" is "ok"

  Scenario: The document is served
    When I get "/openapi.json"
    Then the status is 200
    And the answer's "openapi" is "3.1.0"
    When I get "/openapi.yaml"
    Then the status is 200
    When I get "/docs"
    Then the status is 200
